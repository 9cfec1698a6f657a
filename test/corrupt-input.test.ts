/**
 * Damaged input through every door: whatever is wrong with a file, the error is one for the user and names the file and
 * the key; no tensor stays in memory, and nothing is written.
 */
import assert from "node:assert/strict";
import { cpSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { after, describe, test } from "node:test";
import { Policy, readPrompts, sampleStage, selectStage, Trainer, trainStage } from "../src/b2/index.js";
import { InputError } from "../src/base/errors.js";
import { ImageError, readImage } from "../src/images/index.js";
import { convertLora, loadLora } from "../src/lora/index.js";
import { AutoencoderKL, weightFiles } from "../src/models/index.js";
import { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { Clip } from "../src/rewards/index.js";
import { RunReader } from "../src/runs/index.js";
import { loadSafetensors, readHeader, SafetensorsFile, saveSafetensors } from "../src/safetensors/index.js";
import { liveTensors, tidy, zeros } from "../src/torch/index.js";
import { b2, warmB2 } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { tinyConfig } from "./support/tiny.js";

const folder = temporaryFolder();
after(() => rmSync(folder, { recursive: true }));
const at = (...names: string[]): string => join(folder, ...names);

// Every kind of input, sound.
cpSync(join(fixtures, "sdxl"), at("sdxl"), { recursive: true });
cpSync(join(fixtures, "sd1"), at("sd1"), { recursive: true });
for (const part of ["clip", "tokenizer"]) cpSync(join(fixtures, "sd1", part), at("clip"), { recursive: true });
const lora = join(fixtures, "sd1", "lora", "pytorch_lora_weights.safetensors");
cpSync(lora, at("peft.safetensors"));
convertLora(lora, at("kohya.safetensors"), { form: "kohya" });
writeFileSync(at("prompts.json"), '["a cat", "a dog"]');
const pipeline = StableDiffusionPipeline.fromPretrained(join(fixtures, "sd1"));
pipeline.saveSingleFile(at("single.safetensors"));
cpSync(at("sd1"), at("sharded"), { recursive: true });
const shards = split(at("sharded", "unet", "diffusion_pytorch_model.safetensors"));
const runConfig = tinyConfig({ rewards: ["brightness"] });
const trainer = await Trainer.open(at("run"), runConfig);
await trainer.runStage(0);
await sampleStage(trainer, 1);
await selectStage(trainer, 1);
// Others open the run below.
trainer.writer.close();

/** A file as two shards with an index. */
function split(file: string): string[] {
  const names = ["first.safetensors", "second.safetensors"];
  tidy(() => {
    const entries = [...loadSafetensors(file)];
    const halves = [entries.slice(0, 9), entries.slice(9)];
    halves.forEach((half, i) => saveSafetensors(join(file, "..", names[i]!), new Map(half)));
    const map = Object.fromEntries(halves.flatMap((half, i) => half.map(([key]) => [key, names[i]])));
    writeFileSync(`${file}.index.json`, JSON.stringify({ weight_map: map }));
  });
  rmSync(file);
  return names;
}

const loadModel = (path: string, config?: string) => () =>
  StableDiffusionPipeline.fromPretrained(path, config === undefined ? {} : { config });
const restore = () => trainer.restore(1);

interface Door {
  readonly file: string;
  readonly load: () => unknown;
}

/** Loads what is damaged, which has to fail as the head of this file says. */
async function assertRefused({ file, load }: Door, named: string | RegExp = ""): Promise<void> {
  const tensors = liveTensors();
  const files = readdirSync(folder, { recursive: true });
  await assert.rejects(
    () => Promise.resolve().then(load),
    (error: Error) => {
      assert(error instanceof InputError, error.stack);
      assert(error.message.includes(file), `${relative(folder, file)} is not named: ${error.message}`);
      if (typeof named === "string") assert(error.message.includes(named), `${named} is not named: ${error.message}`);
      else assert.match(error.message, named);
      return true;
    },
  );
  assert(liveTensors() <= tensors, "tensors stay in memory"); // fewer where garbage was collected
  assert.deepEqual(readdirSync(folder, { recursive: true }), files);
}

/** Puts `damaged` in a file's place while `work` runs; a function may put anything there. */
async function inPlace(file: string, damaged: string | Uint8Array | (() => void), work: () => Promise<void>) {
  const sound = `${file}.sound`;
  renameSync(file, sound);
  try {
    if (typeof damaged === "function") damaged();
    else writeFileSync(file, damaged);
    await work();
  } finally {
    rmSync(file, { recursive: true, force: true });
    renameSync(sound, file);
  }
}

type Header = Record<string, { dtype: string; shape: number[]; data_offsets: [number, number] }>; // and the metadata

/** A file of this header and data, as the format has it. */
function assemble(header: string | Uint8Array, data: Uint8Array, length?: bigint): Buffer {
  const json = Buffer.from(header as string);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  return Buffer.concat([prefix, json, data]);
}

/** What can be wrong with a safetensors file; `key` is the tensor at fault. What it returns is expected in the message. */
const damages: Readonly<Record<string, (bytes: Buffer, key: string) => { bytes: Buffer; named?: string | RegExp }>> = {
  "of no length": () => ({ bytes: Buffer.alloc(0) }),
  "cut off in the data": (bytes) => ({ bytes: bytes.subarray(0, -3), named: /: \S+: Expected .*data_offsets/ }),
  "cut off in the header": (bytes) => ({ bytes: bytes.subarray(0, 99), named: "truncated" }),
  "longer than its data": (bytes) => ({ bytes: Buffer.concat([bytes, Buffer.alloc(4)]), named: "to end at byte" }),
  "with a header longer than any": (bytes) => ({ bytes: assemble("{}", bytes, 2n ** 64n - 1n), named: "at most" }),
  "with a header of no length": (bytes) => ({ bytes: assemble("", bytes), named: "JSON" }),
  "that is not UTF-8": (bytes) => ({ bytes: assemble(Uint8Array.of(0x7b, 0xff, 0x7d), bytes), named: "JSON" }),
  "with a key twice": (bytes, key) => {
    const { header, data } = parse(bytes);
    const again = `{${JSON.stringify(key)}:${JSON.stringify(header[key])},`;
    return { bytes: assemble(JSON.stringify(header).replace("{", again), data), named: key };
  },
  "with offsets beyond the file": withEntry(({ data_offsets: [from, to] }) => ({
    data_offsets: [from + 1e9, to + 1e9],
  })),
  "with offsets that overlap": withEntry(({ data_offsets: [from, to] }) => {
    const shift = from === 0 ? 4 : -4;
    return { data_offsets: [from + shift, to + shift] };
  }, ""),
  "with a negative offset": withEntry(({ data_offsets: [, to] }) => ({ data_offsets: [-4, to] })),
  "of a dtype that is none": withEntry(() => ({ dtype: "F31" })),
  "of whole numbers": withEntry(({ dtype }) => ({ dtype: dtype === "F64" ? "I64" : "I32" })),
  "of another shape": withEntry(({ shape }) => ({ shape: [...shape, 1, 1, 1] })),
  "of a shape beyond all numbers": withEntry(() => ({ shape: [2 ** 53 - 1, 2 ** 53 - 1, 2 ** 53 - 1] })),
  "with a key too many": withStranger("stranger"),
  "with a key of every object": withStranger("__proto__"),
  "with a key too few": (bytes, key) => {
    const { header, data } = parse(bytes);
    const { [key]: lost, ...rest } = header;
    const [from, to] = lost!.data_offsets;
    for (const entry of Object.values(rest)) {
      if (entry.data_offsets?.[0] >= to) entry.data_offsets = entry.data_offsets.map((n) => n - (to - from)) as never;
    }
    const left = Buffer.concat([data.subarray(0, from), data.subarray(to)]);
    return { bytes: assemble(JSON.stringify(rest), left), named: layerOf(key) };
  },
  "with NaN in it": withNumber(NaN),
  "with infinity in it": withNumber(-Infinity),
};

/** Where one of a pair or triple is lost, what the others are of is named. */
const layerOf = (key: string): RegExp =>
  new RegExp(
    key
      .replace(/^(lora_)?unet[._]/, "")
      .replace(/[._](lora_|exp_)\w+(\.weight)?$/, "")
      .replaceAll(/[._]/g, "[._]"),
  );

function parse(bytes: Buffer): { header: Header; data: Buffer } {
  const start = 8 + Number(bytes.readBigUInt64LE());
  return { header: JSON.parse(bytes.subarray(8, start).toString()) as Header, data: bytes.subarray(start) };
}

function withEntry(change: (entry: Header[string]) => Partial<Header[string]>, named?: string) {
  return (bytes: Buffer, key: string) => {
    const { header, data } = parse(bytes);
    header[key] = { ...header[key]!, ...change(header[key]!) };
    return { bytes: assemble(JSON.stringify(header), data), named: named ?? key };
  };
}

function withStranger(key: string) {
  return (bytes: Buffer) => {
    const { header, data } = parse(bytes);
    const entry = { dtype: "F32", shape: [1], data_offsets: [data.length, data.length + 4] };
    const json = JSON.stringify(header).replace("{", `{"${key}":${JSON.stringify(entry)},`);
    return { bytes: assemble(json, Buffer.concat([data, Buffer.alloc(4)])), named: key };
  };
}

function withNumber(value: number) {
  return (bytes: Buffer, key: string) => {
    const { header, data } = parse(bytes);
    const [, to] = header[key]!.data_offsets;
    const changed = Buffer.from(data);
    if (header[key]!.dtype === "F64") changed.writeDoubleLE(value, to - 8);
    else changed.writeFloatLE(value, to - 4);
    return { bytes: assemble(JSON.stringify(header), changed), named: key };
  };
}

const stage = (number: number, name: string): string => at("run", "stages", `000${number}`, name);
const weights: Readonly<Record<string, Door & { readonly key?: string }>> = {
  "the UNet": { file: at("sdxl", "unet", "diffusion_pytorch_model.safetensors"), load: loadModel(at("sdxl")) },
  "the VAE": { file: at("sdxl", "vae", "diffusion_pytorch_model.safetensors"), load: loadModel(at("sdxl")) },
  "the text encoder": { file: at("sdxl", "text_encoder", "model.safetensors"), load: loadModel(at("sdxl")) },
  "the second one": { file: at("sdxl", "text_encoder_2", "model.safetensors"), load: loadModel(at("sdxl")) },
  "a shard": { file: at("sharded", "unet", shards[1]!), load: loadModel(at("sharded")) },
  "a single file": { file: at("single.safetensors"), load: loadModel(at("single.safetensors"), at("sd1")) },
  "a LoRA": { file: at("peft.safetensors"), load: () => loadLora({ unet: pipeline.unet }, at("peft.safetensors")) },
  "kohya's": { file: at("kohya.safetensors"), load: () => loadLora({ unet: pipeline.unet }, at("kohya.safetensors")) },
  "the reward's CLIP": { file: at("clip", "model.safetensors"), load: () => Clip.fromPretrained(at("clip")) },
  "a run's UNet": {
    file: at("sd1", "unet", "diffusion_pytorch_model.safetensors"),
    load: () => Policy.forInference(tinyConfig(), { denoiser: at("sd1", "unet") }),
  },
  "a run's LoRA": { file: stage(0, "pytorch_lora_weights.safetensors"), load: restore },
  "a run's optimiser": { file: stage(0, "optimizer.safetensors"), load: restore },
  "a run's samples": { file: stage(1, "sampled.safetensors"), load: () => selectStage(trainer, 1), key: "log_probs" },
  "a run's selection": {
    file: stage(1, "selected.safetensors"),
    load: () => trainStage(trainer, 1),
    key: "advantages",
  },
};

for (const [name, door] of Object.entries(weights)) {
  describe(`${name}: weights`, () => {
    const sound = readFileSync(door.file);
    const isMatrix = ([key, { shape }]: [string, { shape: readonly number[] }]) =>
      shape.length >= 2 && !/\.(step|alpha)$/.test(key);
    const key = door.key ?? [...readHeader(door.file).tensors].find(isMatrix)![0];
    for (const [damage, make] of Object.entries(damages)) {
      test(damage, async () => {
        const { bytes, named } = make(sound, key);
        await inPlace(door.file, bytes, () => assertRefused(door, named));
      });
    }
    test("a folder in their place", () =>
      inPlace(
        door.file,
        () => mkdirSync(door.file),
        () => assertRefused(door),
      ));
  });
}

const sd = (...names: string[]): Door => ({ file: at("sdxl", ...names), load: loadModel(at("sdxl")) });
const clip = (name: string): Door => ({ file: at("clip", name), load: () => Clip.fromPretrained(at("clip")) });
/** Of the images that the reward's CLIP takes. */
const side = 32;
const index = at("sharded", "unet", "diffusion_pytorch_model.safetensors.index.json");
const run = new RunReader(at("run"));
/** What is wrong with a value beside what it is called: "layers.0=-1" sets it, and the last key is named. */
const texts: readonly (readonly [door: Door, ...values: string[]])[] = [
  [sd("model_index.json"), "_class_name=null", "unet=5", "unet={}", 'text_encoder_2=["transformers", "T5"]'],
  [
    sd("unet", "config.json"),
    "layers_per_block=1000000000",
    "layers_per_block=[1000000000]",
    "layers_per_block=-1",
    'in_channels="4"',
    "block_out_channels=[9007199254740991, 32, 32]",
    "transformer_layers_per_block=1e300",
    "constructor=1",
    "cross_attention_dim=0.5",
    "attention_head_dim=9007199254740991",
    "sample_size=0",
    "sample_size=[]",
    "freq_shift=16",
    "addition_time_embed_dim=7",
  ],
  [
    sd("vae", "config.json"),
    "layers_per_block=1000000000",
    "latent_channels=9007199254740991",
    "scaling_factor=0",
    "force_upcast=1",
    "sample_size=[]",
  ],
  [
    sd("text_encoder", "config.json"),
    "num_hidden_layers=1000000000",
    "hidden_size=9007199254740991",
    "num_attention_heads=3",
    "toString=1",
  ],
  [
    sd("scheduler", "scheduler_config.json"),
    "beta_start=-1",
    "num_train_timesteps=1e9",
    "constructor=1",
    'prediction_type="x"',
    "trained_betas=[1]",
  ],
  [sd("tokenizer", "vocab.json"), "a=-1", "a=1.5", 'a="1"', "a=1e300"],
  [
    sd("tokenizer", "tokenizer_config.json"),
    "do_lower_case=false",
    "model_max_length=1",
    'added_tokens_decoder={"x":"y"}',
    'added_tokens_decoder={"5":{"content":""}}',
  ],
  [sd("tokenizer", "special_tokens_map.json"), 'bos_token="none"'],
  [sd("tokenizer", "merges.txt")],
  [{ file: index, load: loadModel(at("sharded")) }, "weight_map={}", "weight_map=5", 'weight_map={"a":"../x"}'],
  [
    clip("config.json"),
    "text_config=5",
    "text_config_dict=5",
    'vision_config={"num_hidden_layers":1000000000}',
    "projection_dim=-1",
    'vision_config={"image_size":16}',
    'vision_config={"num_channels":1}',
  ],
  [clip("preprocessor_config.json"), "image_std=[0, 1, 1]", "crop_size=9007199254740991", "resample=9", "crop_size=16"],
  [{ file: at("run", "run.json"), load: () => new RunReader(at("run")) }, 'format="x"', "version=[]", "version=3"],
  [{ file: at("run", "config.json"), load: () => Trainer.open(at("run"), runConfig) }],
  [{ file: run.stagePath(0, "metrics"), load: () => run.metrics() }],
  [{ file: run.stagePath(0, "samples"), load: () => run.samples(0) }],
  [
    { file: run.stagePath(1, "sampled"), load: () => selectStage(trainer, 1) },
    "keys=5",
    'keys=[{"root":-1}]',
    "timesteps=[-1]",
  ],
  [{ file: at("prompts.json"), load: () => readPrompts(at("prompts.json")) }],
];

for (const [door, ...values] of texts) {
  describe(relative(folder, door.file), () => {
    const sound = readFileSync(door.file);
    const isJson = door.file.endsWith("json");
    const damaged: Readonly<Record<string, string | Uint8Array | (() => void)>> = {
      "of no length": "",
      "cut off": sound.subarray(0, sound.length / 2),
      "that is not UTF-8": Buffer.concat([sound.subarray(0, 9), Uint8Array.of(0xff), sound.subarray(9)]),
      "a folder": () => mkdirSync(door.file),
      ...(isJson && { "a number": "5", nothing: "null" }),
    };
    for (const [damage, bytes] of Object.entries(damaged)) {
      test(damage, () => inPlace(door.file, bytes, () => assertRefused(door)));
    }
    for (const text of values) {
      test(text, async () => {
        const [, key, value] = /^(\w+)=(.*)$/.exec(text)!;
        const changed = Object.entries({
          ...(JSON.parse(sound.toString()) as object),
          [key!]: JSON.parse(value!) as unknown,
        });
        await inPlace(door.file, JSON.stringify(Object.fromEntries(changed)), () => assertRefused(door, key));
      });
    }
  });
}

describe("other damage", () => {
  test("a shard that is lost, or of another model", async () => {
    const [first, second] = shards.map((name) => at("sharded", "unet", name)) as [string, string];
    const load = loadModel(at("sharded"));
    await inPlace(
      second,
      () => undefined,
      () => assertRefused({ file: second, load }, "readable file"),
    );
    const other = readFileSync(at("clip", "model.safetensors"));
    await inPlace(second, other, () =>
      assertRefused({ file: first, load }, "second.safetensors: logit_scale: Expected no such key"),
    );
  });

  test("settings of images that the reward's CLIP does not take", async () => {
    const [config, settings] = [at("clip", "config.json"), at("clip", "preprocessor_config.json")];
    const { vision_config: vision, ...rest } = JSON.parse(readFileSync(config, "utf8")) as { vision_config: object };
    const load = () => Clip.fromPretrained(at("clip"));
    // The same number of patches, so that the weights fit.
    const larger = { ...rest, vision_config: { ...vision, image_size: side + 1 } };
    const expected = `a height and a width of ${side + 1}, the image_size of the model's vision_config, for crop_size`;
    await inPlace(config, JSON.stringify(larger), () => assertRefused({ file: settings, load }, expected));
    for (const [text, received] of [
      ['{"do_center_crop":false,"size":{"shortest_edge":32}}', '{"shortest_edge":32}'],
      ['{"do_center_crop":false,"do_resize":false}', "nothing"],
    ] as const) {
      await inPlace(settings, text, () => assertRefused({ file: settings, load }, `for size but received ${received}`));
    }
    const square = { size: { height: side, width: side }, do_center_crop: false };
    await inPlace(settings, JSON.stringify(square), () => Promise.resolve(load()).then(() => undefined));
  });

  test("configs beside a single file", async () => {
    const load = weights["a single file"]!.load;
    for (const [part, text, key] of [
      ["unet", '{"layers_per_block":null}', "layers_per_block"],
      ["unet", '{"layers_per_block":[1,2,2,2]}', "layers_per_block"],
      ["unet", '{"up_block_types":5}', "up_block_types"],
      ["vae", '{"block_out_channels":null}', "block_out_channels"],
      ["text_encoder", '{"num_hidden_layers":"2"}', "num_hidden_layers"],
    ] as const) {
      const file = at("sd1", part, "config.json");
      await inPlace(file, text, () => assertRefused({ file, load }, key));
    }
  });

  test("the sides of a VAE's tiles", async () => {
    const file = at("sd1", "vae", "config.json");
    const config = JSON.parse(readFileSync(file, "utf8")) as object;
    await inPlace(file, JSON.stringify({ ...config, sample_size: 33 }), async () => {
      const vae = AutoencoderKL.fromPretrained(at("sd1", "vae"));
      assert.throws(() => (vae.tiling = {}), { name: "ModelConfigError", message: /for sample_size .* received 33/ });
      vae.dispose();
      await Promise.resolve();
    });
  });

  test("a LoRA's adapter_config.json, and layers that kohya's form has no names for", async () => {
    const file = at("peft", "adapter_config.json");
    mkdirSync(at("peft"));
    cpSync(lora, at("peft", "adapter_model.safetensors"));
    writeFileSync(file, "{}");
    const load = () => loadLora({ unet: pipeline.unet }, at("peft"));
    for (const damaged of ["", "[]", '{"alpha_pattern":5}', '{"lora_alpha":"4"}', () => mkdirSync(file)]) {
      await inPlace(file, damaged, () => assertRefused({ file, load }));
    }
    const strange = at("strange.safetensors");
    const layer = "unet.nowhere.transformer_blocks.1.to_q"; // a second block is SDXL's
    tidy(() =>
      saveSafetensors(strange, {
        [`${layer}.lora_A.weight`]: zeros([1, 4]),
        [`${layer}.lora_B.weight`]: zeros([4, 1]),
      }),
    );
    const convert = () => convertLora(strange, at("strange-kohya.safetensors"), { form: "kohya" });
    await assertRefused({ file: strange, load: convert }, "nowhere.transformer_blocks.1.to_q");
  });

  test("a model folder that is a file", () =>
    assertRefused({ file: at("prompts.json"), load: () => weightFiles(at("prompts.json"), "model") }));

  test("a tokenizer that is not the text encoder's", async () => {
    const file = at("sdxl", "tokenizer", "vocab.json");
    const vocab = JSON.parse(readFileSync(file, "utf8")) as object;
    const load = loadModel(at("sdxl"));
    const expected = /Expected at most 670, .*ids of the tokenizer but received 671/;
    await inPlace(file, JSON.stringify({ ...vocab, a: 671 }), () =>
      assertRefused({ file: at("sdxl"), load }, expected),
    );
  });

  test("a file that shrinks while it is open", async () => {
    const file = at("peft.safetensors");
    const open = new SafetensorsFile(file);
    const [key] = open.keys();
    const load = () => open.tensor(key!);
    await inPlace(file, "short", () => assertRefused({ file, load }, "the file that was opened"));
  });

  test("alpha of a LoRA", async () => {
    const file = at("kohya.safetensors");
    const sound = readFileSync(file);
    const key = Object.keys(parse(sound).header).find((name) => name.endsWith(".alpha"))!;
    const load = weights["kohya's"]!.load;
    await inPlace(file, withNumber(NaN)(sound, key).bytes, () => assertRefused({ file, load }, key));
  });

  test("pictures", async () => {
    const file = at("sd1", "clip", "photo.png");
    const bytes = readFileSync(file);
    const load = () => readImage(file);
    for (const damaged of ["", "no picture", bytes.subarray(0, 100), () => mkdirSync(file), () => undefined]) {
      await inPlace(file, damaged, () => assertRefused({ file, load }));
    }
    await assert.rejects(readImage(at("none")), ImageError);
  });
});

test("the command line: one sentence, code 2, nothing written", async () => {
  const out = at("out.safetensors");
  const model = ["--set", `model.path=${at("sdxl")}`];
  const clipOf = ["--set", `reward.name=clip:${at("clip")}`, "--set", `model.path=${at("sd1")}`];
  const cases: readonly (readonly [file: string, args: readonly string[]])[] = [
    [at("sdxl", "unet", "diffusion_pytorch_model.safetensors"), ["generate", "a", "--out", out, ...model]],
    [at("single.safetensors"), ["convert", at("single.safetensors"), out, "--model-config", at("sd1")]],
    [at("kohya.safetensors"), ["merge", out, "--lora", at("kohya.safetensors"), "--set", `model.path=${at("sd1")}`]],
    [at("peft.safetensors"), ["convert", at("peft.safetensors"), out, "--form", "kohya"]],
    [at("clip", "model.safetensors"), ["run", out, ...clipOf, "--set", "prompts.train=emoji:train"]],
    [stage(0, "optimizer.safetensors"), ["train", at("run")]],
  ];
  const damage = damages["with NaN in it"]!;
  for (const [file, args] of cases) {
    const [key] = [...readHeader(file).tensors].find(
      ([name, { shape }]) => shape.length >= 2 && !name.endsWith(".step"),
    )!;
    await inPlace(file, damage(readFileSync(file), key).bytes, async () => {
      const before = readdirSync(folder, { recursive: true });
      // A run that a command works on is locked until its process ends.
      const start = args[0] === "run" || args[0] === "train" ? b2 : warmB2;
      const { code, stdout, stderr } = await start(...args);
      assert.equal(code, 2, `b2 ${args.join(" ")}: ${stderr}`);
      assert(stderr.includes(file) && stderr.includes(key.replace(/^(lora_)?unet[._]/, "")), stderr);
      assert.doesNotMatch(stderr, /^\s+at /m, "no stack");
      assert.equal(stdout, "");
      assert.deepEqual(readdirSync(folder, { recursive: true }), before);
    });
  }
});
