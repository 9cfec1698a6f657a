// Stable Diffusion 3 as a run trains it: processes of their own, runs that go on, and what a preset and --dry-run say.
import assert from "node:assert/strict";
import { cpSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { dryRun } from "../src/b2/dry-run.js";
import { Policy, presets, resolveConfig, Trainer, type WeightedLora } from "../src/b2/index.js";
import { weightMemory } from "../src/b2/memory/index.js";
import { silent } from "../src/base/progress.js";
import { Experiment } from "../src/eval/experiment.js";
import { LoraAdapter } from "../src/lora/index.js";
import { T5EncoderModel } from "../src/models/index.js";
import { StableDiffusion3Pipeline, type TextConditioning } from "../src/pipeline/index.js";
import { RunReader } from "../src/runs/index.js";
import { loadSafetensors, saveSafetensors } from "../src/safetensors/index.js";
import { Generator, noGrad, randn, tidy } from "../src/torch/index.js";
import { b2 } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

/** Texts of 8 tokens, and the last steps of CPS left out, which have hardly any noise or none. */
const sd3 = {
  ...tinyValues,
  model: { path: join(fixtures, "sd3"), height: 16, width: 24, options: { maxSequenceLength: 8 } },
  sample: { ...tinyValues.sample, guidanceScale: 4.5 },
  interval: { first: 3, last: 4, skipLast: 2 },
  rewards: ["brightness"],
};

const objectives = {
  "ppo, by CPS": { train: { ...sd3.train, oldLogProbs: "recomputed" } },
  "forward, without branches": {
    objective: { name: "forward", beta: 0.5 },
    branch: { count: 1 },
    select: { mode: "all" },
    sample: { ...sd3.sample, rootsPerPrompt: 3 },
  },
} as const;

describe("b2 run on Stable Diffusion 3", () => {
  for (const [name, own] of Object.entries(objectives)) {
    it(`${name}: two stages learn, and a run that goes on is the uninterrupted one to the bit`, async () => {
      const folder = temporaryFolder();
      const config = resolveConfig(sd3, own);
      const whole = join(folder, "whole");
      const file = join(folder, "config.json");
      writeFileSync(file, JSON.stringify(config));
      const { code, stderr } = await b2("run", whole, "--config", file);
      assert.equal(code, 0, stderr);
      const resumed = join(folder, "resumed");
      cpSync(whole, resumed, { recursive: true });
      rmSync(join(resumed, "stages/0001"), { recursive: true });
      const trainer = await Trainer.open(resumed, config);
      assert.equal(trainer.nextStage, 1);
      await trainer.runAll();
      trainer.dispose();
      const loras = [whole, resumed].map((run) => {
        const reader = new RunReader(run);
        return reader.finishedStages().map((stage) => readFileSync(reader.stagePath(stage, "lora")));
      });
      assert.equal(loras[0]!.length, 2);
      assert.deepEqual(loras[1], loras[0]);
      assert.notDeepEqual(loras[0]![0], loras[0]![1]);
      for (const { updates, skipped, firstRatioMin, firstRatioMax } of new RunReader(whole).metrics()) {
        assert.ok(updates > 0 && skipped === 0);
        if (name.startsWith("ppo")) assert.deepEqual([firstRatioMin, firstRatioMax], [1, 1]);
      }
    });
  }
});

it("model.offload: encoders are loaded for the prompts of a run once, and freed, to the same bits", async () => {
  const folder = temporaryFolder();
  const weights = (run: string): Buffer[] => {
    const reader = new RunReader(join(folder, run));
    return reader.finishedStages().map((stage) => readFileSync(reader.stagePath(stage, "lora")));
  };
  const texts = ["a cat", "a dog", "a fox", "a red apple", "two dogs", "a green fox"];
  const own = {
    prompts: { train: texts, order: "random" },
    eval: { enabled: true, maxPrompts: 2, imagesPerPrompt: 1, clip: null, sheet: 1, sheetImages: 1 },
  } as const;
  const config = (offload: boolean) => resolveConfig(sd3, own, { model: { ...sd3.model, offload } });
  const usual = await Trainer.open(join(folder, "usual"), config(false));
  await usual.runAll();
  usual.dispose();
  const expected = weights("usual");
  assert.equal(expected.length, 2);

  const counted: number[] = [];
  const task = (label: string, total: number, unit: string) => {
    if (label === "encoding") counted.push(total);
    return silent.task(label, total, unit);
  };
  const experiment = await Experiment.open(join(folder, "run"), config(true), { progress: { ...silent, task } });
  const { model } = experiment.trainer.policy;
  const areGone = (): void => assert.equal(model.modules["text_encoder_3"], undefined);
  areGone();
  await experiment.run({ before: areGone });
  experiment.dispose();
  assert.deepEqual(weights("run"), expected);
  assert.equal(counted.length, 1);

  // Phases one by one know the prompts of their stage alone.
  const trainer = await Trainer.open(join(folder, "phases"), config(true));
  await trainer.runStage(0);
  assert.equal(trainer.policy.model.modules["text_encoder_3"], undefined);
  trainer.dispose();
  assert.deepEqual(weights("phases"), expected.slice(0, 1));
});

it("model.offload: prompts are encoded first, but not before a LoRA has adapted an encoder", async () => {
  const path = join(fixtures, "sd3");
  const pipeline = StableDiffusion3Pipeline.fromPretrained(path);
  const part = "text_encoder_2";
  const options = { part, targetModules: ["q_proj"], generator: new Generator(1) } as const;
  const adapter = LoraAdapter.inject(pipeline.adaptable[part]!, options);
  const file = join(temporaryFolder(), "lora.safetensors");
  tidy(() => adapter.parameters.forEach((parameter) => noGrad(() => parameter.add_(0.5))));
  adapter.save(file);
  adapter.dispose();
  pipeline.dispose();
  const textOf = async (offload: boolean, loras: WeightedLora[] = [{ file, weight: 1 }]): Promise<number[]> => {
    const config = resolveConfig(sd3, { model: { ...sd3.model, offload } });
    const policy = await Policy.openForInference(config, { loras }, ["a cat"], { progress: silent });
    const values = tidy(() => (policy.conditioning(["a cat"]) as TextConditioning).pooled!.toArray());
    policy.dispose();
    return values;
  };
  const adapted = await textOf(false);
  assert.deepEqual(await textOf(true), adapted);
  assert.notDeepEqual(await textOf(true, []), adapted);
});

it("--dry-run counts the weights that a run holds, with its LoRA, and says that CPS ends without noise", () => {
  const config = resolveConfig(sd3, { eval: { enabled: false } });
  const policy = Policy.forTraining(config);
  const sum = (sizes: readonly number[]): number => sizes.reduce((total, size) => total + size, 0);
  const frozen = sum(Object.values(policy.model.modules).map((part) => part!.parameterCount()));
  const trained = sum([...policy.parameters.values()].map(({ numel }) => numel));
  policy.dispose();
  const bytes = 4 * frozen + 16 * trained;
  assert.deepEqual(Object.fromEntries(weightMemory(config).devices), { cpu: { scoring: bytes, training: bytes } });
  const ends = /^scheduler flow-match: the last 2 steps of a trajectory draw hardly any noise or none/m;
  assert.doesNotMatch(dryRun(config), ends);
  assert.match(dryRun(resolveConfig(sd3, { interval: { skipLast: 0 } })), ends);
});

it("--dry-run counts a VAE where the index says it is, no encoder that is not named, and T5 in half precision", () => {
  const folder = temporaryFolder();
  const path = join(folder, "model");
  cpSync(join(fixtures, "sd3"), path, { recursive: true });
  const pipeline = StableDiffusion3Pipeline.fromPretrained(path);
  const sizes = Object.entries(pipeline.modules).map(([name, part]) => [name, part!.parameterCount()] as const);
  const of = Object.fromEntries(sizes) as Record<"vae" | "text_encoder" | "text_encoder_2" | "text_encoder_3", number>;
  const positions = pipeline.transformer.parameters().get("pos_embed.pos_embed")!.numel;
  const learning = pipeline.transformer.parameterCount() - positions;
  pipeline.dispose();
  const memory = (change: { readonly offload?: boolean; readonly device?: string; readonly train?: object } = {}) => {
    const { train = {}, ...model } = change;
    const config = resolveConfig(sd3, { eval: { enabled: false }, model: { ...sd3.model, path, ...model }, train });
    return Object.fromEntries(weightMemory(config).devices);
  };
  const { scoring: all } = memory()["cpu"]!;
  const text = 4 * (of.text_encoder + of.text_encoder_2 + of.text_encoder_3);
  const vae = 4 * of.vae;
  const denoiser = all - text - vae;
  // Encoders are gone before the denoiser comes; a GPU sends the VAE away too.
  const cpu = { scoring: denoiser + vae, training: denoiser + vae, encoding: text + vae };
  assert.deepEqual(memory({ offload: true }), { cpu });
  assert.deepEqual(memory({ offload: true, device: "cuda" }), {
    cuda: { scoring: denoiser + vae, training: denoiser, encoding: text },
    cpu: { scoring: vae, training: vae, encoding: vae },
  });
  assert.match(
    dryRun(resolveConfig(sd3, { model: { ...sd3.model, offload: true } })),
    /MB while training, \d+ MB while prompts are encoded, before/,
  );
  // The positions do not learn: 4 bytes, and 16 with gradient and moments of what does.
  const full = memory({ train: { ...sd3.train, parameters: "full" } })["cpu"]!;
  assert.equal(full.training, text + vae + 4 * positions + 16 * learning);

  const t5 = join(path, "text_encoder_3");
  const half = T5EncoderModel.fromPretrained(t5, { dtype: "float16" });
  half.savePretrained(t5);
  half.dispose();
  assert.equal(memory()["cpu"]!.scoring, all - 2 * of.text_encoder_3);
  renameSync(join(path, "vae"), join(folder, "vae"));
  const file = join(path, "model_index.json");
  const index = JSON.parse(readFileSync(file, "utf8")) as object;
  const place = { pretrained_model_name_or_path: "..", subfolder: "vae" };
  const absent = { text_encoder_3: [null, null], tokenizer_3: [null, null] };
  writeFileSync(file, JSON.stringify({ ...index, vae: ["diffusers", "AutoencoderKL", place], ...absent }));
  assert.equal(memory()["cpu"]!.scoring, all - 4 * of.text_encoder_3);
});

it("the preset's numbers are those of its source, and other presets go on top", () => {
  const config = resolveConfig(presets.sd3);
  assert.deepEqual(config.scheduler, { name: "flow-match", noise: "flow-sde", eta: 0.7 });
  assert.deepEqual(config.objective, { name: "ppo", clipRange: 1e-4, kl: 0.01 });
  // 48 groups of 24 images, all trained in two updates.
  const { rootsPerStage, rootsPerPrompt } = config.sample;
  assert.deepEqual([rootsPerStage / rootsPerPrompt, rootsPerStage / config.train.samplesPerUpdate], [48, 2]);
  const forward = resolveConfig(presets.sd3, presets.forward, { interval: { skipLast: 0 } });
  assert.equal(forward.objective.name, "forward");
  assert.equal(forward.model.path, config.model.path);
});

it("a folder's index may name the VAE of another folder, which draws the same pictures", () => {
  const folder = temporaryFolder();
  cpSync(join(fixtures, "sd3"), join(folder, "own"), { recursive: true });
  const shared = join(folder, "shared");
  cpSync(join(folder, "own"), shared, { recursive: true });
  rmSync(join(shared, "vae"), { recursive: true });
  const file = join(shared, "model_index.json");
  const index = JSON.parse(readFileSync(file, "utf8")) as object;
  const name = (place: unknown): void =>
    writeFileSync(file, JSON.stringify({ ...index, vae: ["diffusers", "AutoencoderKL", place] }));
  name({ pretrained_model_name_or_path: "../own", subfolder: "vae" });
  const images = ["own", "shared"].map((part) => {
    const model = StableDiffusion3Pipeline.fromPretrained(join(folder, part));
    const [channels, ...sides] = model.latentShape({ height: 16, width: 24 });
    const latents = randn([1, channels, ...sides], { generator: new Generator(1) });
    const image = model.decode(latents).toArray();
    model.dispose();
    return image;
  });
  assert.deepEqual(images[1], images[0]);
  for (const place of [{ pretrained_model_name_or_path: join(folder, "own") }, "../own", null]) {
    name(place);
    assert.throws(
      () => StableDiffusion3Pipeline.fromPretrained(shared),
      /model_index\.json: Expected a relative path, as in .* for vae but received \["diffusers"/,
    );
  }
});

it("an option that the family does not have is refused", async () => {
  const model = { ...sd3.model, options: { maxSequenceLenght: 8 } };
  await assert.rejects(
    Trainer.open(join(temporaryFolder(), "run"), resolveConfig(sd3, { model })),
    /Expected options maxSequenceLength for a model of stable-diffusion-3 but received model\.options\.maxSequenceLenght/,
  );
});

describe("a LoRA of Stable Diffusion 3", () => {
  const at = join(fixtures, "sd3/lora/pytorch_lora_weights.safetensors");

  it("is the transformer's where its keys name no model, as in PEFT's own folders", () => {
    const folder = temporaryFolder();
    tidy(() => {
      const named = [...loadSafetensors(at)];
      const unnamed = named.map(([key, value]) => [key.replace(/^transformer\./, "base_model.model."), value] as const);
      saveSafetensors(join(folder, "adapter_model.safetensors"), Object.fromEntries(unnamed));
    });
    writeFileSync(join(folder, "adapter_config.json"), "{}");
    const merged = (file?: string) => {
      const policy = Policy.forInference(resolveConfig(sd3), {
        loras: file === undefined ? [] : [{ file, weight: 1 }],
      });
      policy.merge();
      const weight = policy.model.denoiser.parameters().get("transformer_blocks.0.attn.add_k_proj.weight")!.toArray();
      policy.dispose();
      return weight;
    };
    assert.deepEqual(merged(folder), merged(at));
    assert.notDeepEqual(merged(folder), merged());
  });
});
