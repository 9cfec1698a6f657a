/** Readers of safetensors: any, sharded, LoRAs, optimiser states, single files, whole models. */
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { dirname, join } from "node:path";
import { convertLora, readLora } from "../../../src/lora/index.js";
import { weightFiles } from "../../../src/models/index.js";
import { Weights } from "../../../src/nn/index.js";
import { AdamW } from "../../../src/optim/index.js";
import { StableDiffusion3Pipeline, StableDiffusionPipeline, type DiffusionModel } from "../../../src/pipeline/index.js";
import { byteLength } from "../../../src/safetensors/header.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../../../src/safetensors/index.js";
import { SD3SingleFile } from "../../../src/single-file/index.js";
import { arange, tidy, zeros, type DType } from "../../../src/torch/index.js";
import { fixtures } from "../folders.js";
import { mutateBytes, mutateJson, mutateSafetensors, mutateText } from "../mutate.js";
import { put, type ReaderUnderTest } from "./reader.js";

const [sd1, sd3] = [join(fixtures, "sd1"), join(fixtures, "sd3")];

const DTYPES: readonly DType[] = [
  ...(["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"] as const),
];

const anyTensors: ReaderUnderTest = {
  name: "safetensors",
  share: 3300,
  prepare: (folder) => {
    const file = join(folder, "all.safetensors");
    const tensors = DTYPES.map(
      (dtype, i) =>
        [
          dtype,
          arange(0, 3 * (1 + (i % 2)))
            .reshape([1 + (i % 2), 3])
            .to({ dtype }),
        ] as const,
    );
    saveSafetensors(file, new Map([...tensors, ["猫", zeros([0, 3])], ["scalar", zeros([])]]), { format: "pt" });
    return {
      files: { "all.safetensors": mutateSafetensors },
      read: () =>
        tidy(() => {
          const { tensors: entries, size } = readHeader(file);
          let bytes = 0;
          for (const { dtype, shape, begin, end } of entries.values()) {
            assert.equal(end - begin, byteLength(dtype, shape));
            bytes += end - begin;
          }
          assert(bytes < size);
          for (const [key, tensor] of loadSafetensors(file)) {
            assert.deepEqual(tensor.shape, entries.get(key)!.shape);
            assert.equal(tensor.toBytes().length, entries.get(key)!.end - entries.get(key)!.begin);
          }
        }),
    };
  },
};

const sharded: ReaderUnderTest = {
  name: "shards and their index",
  share: 700,
  prepare: (folder) => {
    const shards = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"];
    shards.forEach((name, i) => saveSafetensors(join(folder, name), { [`w${i}`]: arange(0, 4) }));
    const index = "model.safetensors.index.json";
    put(folder, index, {
      metadata: { total_size: 32 },
      weight_map: Object.fromEntries(shards.map((name, i) => [`w${i}`, name])),
    });
    return {
      files: { [index]: mutateJson, [shards[0]!]: mutateSafetensors },
      // An index that names another file is found out where that file is opened.
      names: [index, folder],
      read: () => {
        const files = weightFiles(folder, "model");
        for (const file of files) assert.equal(dirname(file), folder);
        const weights = Weights.fromSafetensors(files, {});
        weights.dispose();
      },
    };
  },
};

const LORAS: readonly string[] = ["peft.safetensors", "kohya.safetensors", "joint.safetensors"];

const loras: ReaderUnderTest = {
  name: "LoRA files",
  share: 500,
  prepare: (folder) => {
    const [peft, kohya, joint] = LORAS.map((name) => join(folder, name)) as [string, string, string];
    const few = (model: string, layers: RegExp): void => {
      const { file } = readLora(join(model, "lora/pytorch_lora_weights.safetensors"));
      const own = [...loadSafetensors(file)].filter(([key]) => layers.test(key));
      saveSafetensors(peft, new Map(own), readHeader(file).metadata);
    };
    few(sd3, /blocks\.0\.attn\.(to_[qkv]|to_out)/);
    convertLora(peft, joint, { form: "kohya" });
    few(sd1, /down_blocks\.0.*to_q/);
    convertLora(peft, kohya, { form: "kohya" });
    cpSync(peft, join(folder, "own", "adapter_model.safetensors"));
    put(folder, "own/adapter_config.json", {
      lora_alpha: 4,
      r: 4,
      alpha_pattern: { "attn1.to_q": 8 },
      use_rslora: true,
    });
    const config = "own/adapter_config.json";
    return {
      files: { ...Object.fromEntries(LORAS.map((name) => [name, mutateSafetensors])), [config]: mutateJson },
      read: () =>
        tidy(() => {
          for (const file of [peft, kohya, joint, join(folder, "own")]) {
            const { layers } = readLora(file);
            assert(layers.length > 0);
            for (const { a, b, alpha } of layers) {
              assert(a.size(0) === b.size(1) && a.size(0) > 0 && Number.isFinite(alpha));
            }
          }
        }),
    };
  },
};

const optimizer: ReaderUnderTest = {
  name: "optimiser states",
  share: 400,
  prepare: (folder) => {
    const file = join(folder, "optimizer.safetensors");
    const parameters = new Map([
      ["a", zeros([2, 3])],
      ["b", zeros([4])],
    ]);
    for (const parameter of parameters.values()) {
      parameter.requiresGrad_();
      parameter.grad = zeros(parameter.shape);
    }
    const made = new AdamW(parameters);
    made.step();
    saveSafetensors(file, made.state());
    return {
      files: { "optimizer.safetensors": mutateSafetensors },
      read: () =>
        tidy(() => {
          const adam = new AdamW(parameters);
          adam.loadState(loadSafetensors(file), file);
          for (const [key, tensor] of adam.state()) {
            if (key.endsWith(".step")) assert(Number.isSafeInteger(tensor.item()) && tensor.item() >= 0);
          }
        }),
    };
  },
};

const models: ReaderUnderTest = {
  name: "whole models",
  share: 120,
  prepare: (folder) => {
    for (const part of ["unet", "vae", "text_encoder", "tokenizer", "scheduler", "model_index.json"]) {
      cpSync(join(sd1, part), join(folder, part), {
        recursive: true,
        filter: (file) => !/\/(io|expected)[\w.]*$/.test(file),
      });
    }
    const weights = ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"];
    const texts = ["unet/config", "vae/config", "text_encoder/config", "scheduler/scheduler_config", "model_index"];
    return {
      files: {
        ...Object.fromEntries(weights.map((name) => [`${name}.safetensors`, mutateSafetensors])),
        ...Object.fromEntries([...texts, "tokenizer/vocab"].map((name) => [`${name}.json`, mutateJson])),
        "tokenizer/merges.txt": mutateText,
      },
      // A config that does not fit the weights is found out at the weights.
      names: [folder],
      read: () => StableDiffusionPipeline.fromPretrained(folder).dispose(),
    };
  },
};

/** A model in one file. */
const singleFile = (
  family: string,
  model: string,
  open: (path: string, options?: { readonly config: string }) => DiffusionModel,
  readMore: (file: string) => void = () => undefined,
): ReaderUnderTest => ({
  name: `single files of ${family}`,
  share: 60,
  prepare: (folder) => {
    const pipeline = open(model);
    const file = join(folder, "single.safetensors");
    pipeline.saveSingleFile!(file);
    pipeline.dispose();
    return {
      files: {
        "single.safetensors": (sound, random) => (random.once(4) ? mutateBytes : mutateSafetensors)(sound, random),
      },
      names: [model],
      read: () => {
        readMore(file);
        open(file, { config: model }).dispose();
      },
    };
  },
});

/** With configs from the shapes of what was damaged. */
function readInferred(file: string): void {
  const single = new SD3SingleFile(file);
  for (const part of ["text_encoder", "text_encoder_2"] as const) single.clip(part, {}).dispose();
  single.t5({}).dispose();
  single.transformer({}).dispose();
}

const singleFiles = [
  singleFile("Stable Diffusion", sd1, (path, options) => StableDiffusionPipeline.fromPretrained(path, options)),
  singleFile(
    "Stable Diffusion 3",
    sd3,
    (path, options) => StableDiffusion3Pipeline.fromPretrained(path, options),
    readInferred,
  ),
];

export const weightReaders: readonly ReaderUnderTest[] = [
  anyTensors,
  sharded,
  loras,
  optimizer,
  models,
  ...singleFiles,
];
