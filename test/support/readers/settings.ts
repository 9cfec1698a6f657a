/** Readers of text that people and other programs write: configs, tokenizers, prompts, assignments, grids. */
import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { join } from "node:path";
import { presets } from "../../../src/b2/config/presets.js";
import { parseAssignments, readConfigFile, resolveConfig } from "../../../src/b2/config/resolve.js";
import { readPromptLists } from "../../../src/b2/rollout/prompts.js";
import { readJsonObject } from "../../../src/base/files.js";
import { readGrid } from "../../../src/compare/grid.js";
import { readImageFolder } from "../../../src/eval/image-folder.js";
import { readPreprocessorConfig } from "../../../src/images/index.js";
import { parseDebertaConfig, parseRobertaConfig } from "../../../src/models/bert-config.js";
import {
  AutoencoderKL,
  CLIPModel,
  CLIPTextModel,
  SD3Transformer2DModel,
  T5EncoderModel,
  UNet2DConditionModel,
} from "../../../src/models/index.js";
import { readModelIndex } from "../../../src/pipeline/model-index.js";
import { readSD3Index } from "../../../src/pipeline/sd3-load.js";
import { DDIMScheduler, FlowMatchScheduler } from "../../../src/schedulers/index.js";
import { readOpenClipConfig } from "../../../src/single-file/open-clip.js";
import { CLIPTokenizer, JsonTokenizer } from "../../../src/tokenizer/index.js";
import { fixtures } from "../folders.js";
import { mutateJson, mutateJsonLines, mutateText } from "../mutate.js";
import { inputOf, put, type ReaderUnderTest } from "./reader.js";

const sd1 = join(fixtures, "sd1");

/** A reader of one file of a model's folder. */
const modelFile = (
  name: string,
  share: number,
  [from, file]: readonly [from: string, file: string],
  read: (folder: string) => unknown,
): ReaderUnderTest => ({
  name,
  share,
  prepare: (folder) => {
    cpSync(join(fixtures, from, file), join(folder, file));
    return { files: { [file]: mutateJson }, read: () => read(folder) };
  },
});

const jsonOf = (folder: string, name: string): [config: object, source: string] => {
  const file = join(folder, name);
  return [readJsonObject(file), file];
};

/** What a reader has accepted is accepted again. */
function assertStable(config: object, read: (config: object) => object): void {
  assert.deepEqual(read(JSON.parse(JSON.stringify(config)) as object), config);
}

const configs: readonly ReaderUnderTest[] = [
  modelFile("UNet configs", 1200, ["sdxl/unet", "config.json"], (folder) => {
    const config = UNet2DConditionModel.readConfig(folder);
    assertStable(config, (again) => UNet2DConditionModel.layout.parseConfig(again, "again"));
  }),
  modelFile("SD3 transformer configs", 300, ["sd3/transformer", "config.json"], (folder) => {
    const config = SD3Transformer2DModel.readConfig(folder);
    assertStable(config, (again) => SD3Transformer2DModel.layout.parseConfig(again, "again"));
  }),
  modelFile("T5 configs", 300, ["sd3/text_encoder_3", "config.json"], (folder) => T5EncoderModel.readConfig(folder)),
  modelFile("VAE configs", 500, ["sd1/vae", "config.json"], (folder) => AutoencoderKL.readConfig(folder)),
  modelFile("text encoder configs", 500, ["sd1/text_encoder", "config.json"], (folder) =>
    CLIPTextModel.readConfig(folder),
  ),
  modelFile("CLIP configs", 700, ["sd1/clip", "config.json"], (folder) => CLIPModel.readConfig(folder)),
  modelFile("RoBERTa configs", 200, ["rewards/roberta", "config.json"], (folder) =>
    parseRobertaConfig(...jsonOf(folder, "config.json")),
  ),
  modelFile("DeBERTa configs", 200, ["rewards/deberta", "config.json"], (folder) =>
    parseDebertaConfig(...jsonOf(folder, "config.json")),
  ),
  modelFile("OpenCLIP configs", 200, ["rewards/open_clip", "open_clip_config.json"], (folder) =>
    readOpenClipConfig(join(folder, "open_clip_config.json")),
  ),
  modelFile("scheduler configs", 1000, ["sd1/scheduler", "scheduler_config.json"], (folder) => {
    const scheduler = DDIMScheduler.fromPretrained(folder);
    for (const t of scheduler.timesteps(1)) assert(t >= 0 && t < scheduler.numTrainTimesteps, String(t));
    for (const alpha of scheduler.alphasCumprod) assert(alpha >= 0 && alpha <= 1, String(alpha));
  }),
  modelFile("flow-matching scheduler configs", 300, ["sd3/scheduler", "scheduler_config.json"], (folder) => {
    const scheduler = FlowMatchScheduler.fromPretrained(folder);
    const sigmas = scheduler.sigmas(Math.min(10, scheduler.maxInferenceSteps));
    sigmas.forEach((sigma, i) => assert(i === 0 ? sigma === 1 : sigma < sigmas[i - 1]!, String(sigma)));
  }),
  modelFile("model_index.json", 500, ["sdxl", "model_index.json"], (folder) => readModelIndex(folder)),
  modelFile("Stable Diffusion 3's model_index.json", 300, ["sd3", "model_index.json"], (folder) =>
    readSD3Index(folder),
  ),
  modelFile("preprocessor configs", 800, ["sd1/clip", "preprocessor_config.json"], (folder) => {
    const { image_std: std, crop_size: crop } = readPreprocessorConfig(folder);
    assert(std.every((value) => value > 0) && crop.height > 0 && crop.width > 0);
  }),
];

const tokenizers: ReaderUnderTest = {
  name: "tokenizer files",
  share: 900,
  prepare: (folder) => {
    const names = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];
    for (const name of names) cpSync(join(sd1, "tokenizer", name), join(folder, name));
    return {
      files: Object.fromEntries(names.map((name) => [name, name.endsWith("json") ? mutateJson : mutateText])),
      // Files that do not fit each other.
      names,
      read: () => {
        const tokenizer = CLIPTokenizer.fromPretrained(folder);
        const ids = tokenizer.encode("A photo of the cat's 猫, <|endoftext|> 12 e\u0301!");
        assert.equal(ids.length, tokenizer.modelMaxLength);
        assert(ids.every((id) => Number.isSafeInteger(id) && id >= 0));
      },
    };
  },
};

const jsonTokenizers = (from: string): ReaderUnderTest => ({
  name: `tokenizer.json of ${from}`,
  share: 400,
  prepare: (folder) => {
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      cpSync(join(fixtures, from, name), join(folder, name));
    }
    return {
      files: { "tokenizer.json": mutateJson, "tokenizer_config.json": mutateJson },
      names: ["tokenizer.json"],
      read: () => {
        const tokenizer = JsonTokenizer.fromPretrained(folder);
        const ids = tokenizer.encode("A photo of the cat's 猫, [SEP] 12 e\u0301!", 20);
        assert(ids.length <= Math.max(20, tokenizer.specialIds.length), String(ids.length));
        assert(ids.every((id) => Number.isSafeInteger(id) && id >= 0));
      },
    };
  },
});

const texts: ReaderUnderTest = {
  name: "tokenized texts",
  takesAll: true,
  share: 800,
  prepare: (folder) => {
    put(folder, "input", "A photo of the cat's 猫, <|endoftext|> 12 e\u0301!\n\tÜber ΣΑΣ ß ﬁ Ǆ\n😀👩‍👩‍👧");
    const tokenizer = CLIPTokenizer.fromPretrained(join(sd1, "tokenizer"));
    return {
      files: { input: mutateText },
      names: null,
      read: () => {
        const text = inputOf(folder).toString("latin1");
        // As UTF-16, too: halves of pairs alone.
        for (const each of [text, inputOf(folder).toString("utf8"), inputOf(folder).toString("utf16le")]) {
          const ids = tokenizer.encode(each);
          assert.equal(ids.length, 77);
          assert(ids.every((id) => Number.isSafeInteger(id) && id >= 0 && id < tokenizer.vocabSize));
        }
      },
    };
  },
};

const YAML = `# A run's config
stages: 4
seed: 7
plugins: []
model: { path: models/emoji, device: cpu, height: 64, width: 64 }
prompts:
  train: &list emoji:train
  heldOut: emoji:held-out
sample:
  steps: 10
  guidanceScale: 1.0
rewards:
  - name: clip-score
    weight: 0.5
  - { name: brightness }
interval: {first: 2, last: 5}
train:
  learningRate: 1e-4
  samplesPerUpdate: 4
eval:
  clip: ~
  truth: none
`;

const runConfigs: ReaderUnderTest = {
  name: "run configs",
  share: 600,
  prepare: (folder) => {
    put(folder, "run.yaml", YAML);
    put(folder, "run.json", resolveConfig(presets.demo));
    return {
      files: { "run.yaml": mutateText, "run.json": mutateJson },
      read: (damaged) => {
        const config = resolveConfig(readConfigFile(join(folder, damaged)));
        assert.deepEqual(resolveConfig(config), config);
      },
    };
  },
};

const assignments: ReaderUnderTest = {
  name: "--set",
  share: 1100,
  prepare: (folder) => {
    put(
      folder,
      "input",
      ["stages=4", "rewards.0.weight=2", 'rewards.1={"name":"brightness"}', "train.learningRate=1e-4", "seed=1"]
        .concat(["model.path=models/emoji", 'prompts.train=["a cat"]', "lora.rank=4", "eval.clip=null"])
        .join("\n"),
    );
    return {
      files: { input: mutateText },
      names: null,
      read: () => {
        const config = resolveConfig(presets.demo, parseAssignments(inputOf(folder).toString().split("\n")));
        assert.deepEqual(resolveConfig(config), config);
      },
    };
  },
};

const PROMPTS: Readonly<Record<string, string>> = {
  "list.json": JSON.stringify(["a cat", "ein Hund über 猫", "a\tb"], null, 1),
  "list.txt": "a cat\r\nein Hund über 猫\n\n  a dog  \n",
  "list.jsonl": [
    { prompt: "a cat", tag: "counting", include: [{ class: "cat", count: 2 }] },
    { prompt: "a dog" },
    { prompt: "猫", tag: "x" },
  ]
    .map((line) => `${JSON.stringify(line)}\n`)
    .join(""),
};

const prompts: ReaderUnderTest = {
  name: "prompts",
  share: 1800,
  prepare: (folder) => {
    for (const [name, text] of Object.entries(PROMPTS)) put(folder, name, text);
    const mutations = { "list.json": mutateJson, "list.txt": mutateText, "list.jsonl": mutateJsonLines };
    return {
      files: mutations,
      read: (damaged) => {
        const list = { order: "in-turn", train: join(folder, damaged), heldOut: null, fixed: null } as const;
        const { training } = readPromptLists({ prompts: list });
        assert(training.length > 0);
        // eslint-disable-next-line no-control-regex
        for (const prompt of training) assert.doesNotMatch(prompt, /^\s|\s$|[\0-\x08\x0e-\x1f\x7f]/);
      },
    };
  },
};

const grids: ReaderUnderTest = {
  name: "grids of compare",
  share: 400,
  prepare: (folder) => {
    put(folder, "tiny.json", { stages: 2 });
    put(folder, "grid.json", {
      settings: {
        b2: ["demo", { train: { learningRate: 1e-3 } }],
        ddpo: "demo+ddpo",
        file: `${join(folder, "tiny.json")}+demo`,
      },
      seeds: [1, 2],
      budget: { queries: 100 },
      baseline: "b2",
      common: { eval: { sheet: 0 } },
      threads: 1,
    });
    return {
      files: { "grid.json": mutateJson },
      // A grid may name presets, and config files anywhere.
      names: null,
      opens: "any",
      read: () => {
        const grid = readGrid(join(folder, "grid.json"));
        assert(Object.keys(grid.settings).length > 0 && grid.seeds.length > 0);
        for (const name of Object.keys(grid.settings)) assert.match(name, /^[\w.+-]+$/);
      },
    };
  },
};

const imageFolders: ReaderUnderTest = {
  name: "image folders",
  share: 500,
  prepare: (folder) => {
    for (const name of ["a.png", "b.jpg"]) put(folder, name, "");
    put(folder, "metadata.jsonl", '{"file_name":"a.png","prompt":"a cat","x":1}\n{"file_name":"b.jpg","text":"b"}\n');
    return {
      files: { "metadata.jsonl": mutateJsonLines },
      names: [folder],
      read: () => {
        for (const { name, prompt } of readImageFolder(folder).images) {
          assert(["a.png", "b.jpg"].includes(name), name);
          assert.notEqual(prompt, "");
        }
      },
    };
  },
};

export const settingReaders: readonly ReaderUnderTest[] = [
  ...configs,
  tokenizers,
  jsonTokenizers("rewards/deberta"),
  jsonTokenizers("sd3/tokenizer_3"),
  texts,
  runConfigs,
  assignments,
  prompts,
  grids,
  imageFolders,
];
