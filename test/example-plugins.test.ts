// The plugins of examples/plugins do what they say, alone and together.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { createToyModel, ToyModel } from "../examples/plugins/model.js";
import { DDPMScheduler } from "../examples/plugins/scheduler.js";
import "../examples/plugins/objective.js";
import "../examples/plugins/reward.js";
import { Policy, resolveConfig, Trainer, type ConfigInput } from "../src/b2/index.js";
import { optionsOf } from "../src/base/registry.js";
import { RewardResources, rewards } from "../src/rewards/index.js";
import { readHeader } from "../src/safetensors/index.js";
import { DDIMScheduler, parseSchedulerConfig } from "../src/schedulers/index.js";
import { cat, full, Generator, inference, liveTensors, randn, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { repository, temporaryFolder } from "./support/folders.js";

const folder = temporaryFolder();
const toy = join(folder, "toy");
before(() => createToyModel(toy));

const values: ConfigInput = {
  stages: 12,
  model: { path: toy },
  prompts: { train: ["a wall", "a door"], heldOut: null },
  sample: { steps: 6, guidanceScale: 1, rootsPerStage: 16, batchSize: 64 },
  branch: { count: 4 },
  interval: { first: null, last: null },
  rewards: [{ name: "colour", colour: "#0000ff" }],
  select: { mode: "all" },
  train: { parameters: "full", learningRate: 3e-3, samplesPerUpdate: 32, microBatch: 64, epochs: 1 },
  eval: { enabled: false },
  record: { images: 0 },
};

async function trained(name: string, ...layers: ConfigInput[]): Promise<{ run: string; rewards: number[] }> {
  const run = join(folder, name);
  const trainer = await Trainer.open(run, resolveConfig(values, ...layers));
  try {
    await trainer.runAll();
    return { run, rewards: trainer.run.metrics().map(({ rewardMean }) => rewardMean) };
  } finally {
    trainer.dispose();
  }
}

const lora: ConfigInput = { train: { parameters: "lora" } };

describe("the reward colour", () => {
  it("is the share of the image that is of the colour", async () => {
    const kind = rewards.get("colour");
    const options = optionsOf(kind, { name: "colour", colour: "#00ff00", tolerance: 0.1 });
    const reward = await kind.open(options, new RewardResources("cpu"));
    const green = (size: readonly number[]): Tensor =>
      tidy(() =>
        tensor([0, 1, 0])
          .view([1, 3, 1, 1])
          .expand([1, 3, ...size]),
      );
    const images = inference(() => cat([cat([green([4, 1]), full([1, 3, 4, 3], 1)], 3), green([4, 4])]));
    const [quarter, all] = Array.from(await reward.score(images, ["", ""]));
    images.dispose();
    assert.ok(Math.abs(quarter! - 0.25) < 1e-6, `${quarter}`);
    assert.ok(Math.abs(all! - 1) < 1e-6, `${all}`);
  });

  it("refuses what is no colour, naming the key", () => {
    assert.throws(() => resolveConfig({ rewards: [{ name: "colour", colour: "green" }] }), /rewards\.0\.colour/);
  });
});

describe("the scheduler ddpm", () => {
  for (const prediction_type of ["epsilon", "v_prediction", "sample"] as const) {
    it(`with the posterior's variance is DDIM with eta 1, for ${prediction_type}`, () => {
      const config = parseSchedulerConfig({ prediction_type, steps_offset: 1, clip_sample: false });
      const generator = new Generator(1);
      const [sample, modelOutput, noise] = [0, 1, 2].map(() => randn([3, 3, 4, 4], { generator })) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      const step = { sample, modelOutput, noise, timestep: [901, 401, 101], numInferenceSteps: 10 };
      tidy(() => {
        const ours = new DDPMScheduler(config).step(step);
        const theirs = new DDIMScheduler(config).step(step);
        for (const key of ["mean", "prevSample", "predOriginalSample", "logProb"] as const) {
          const [a, b] = [ours[key], theirs[key]];
          const error = a.sub(b).abs().amax().item() / b.abs().amax().item();
          assert.ok(error < 1e-5, `${key} differs by ${error}`);
        }
        const large = new DDPMScheduler(config, "large").step(step);
        large.sigma.forEach((sigma, row) => assert.ok(sigma > ours.sigma[row]!));
        assert.deepEqual(large.mean.toArray(), ours.mean.toArray());
      });
    });
  }

  it("needs noise, or what was drawn", () => {
    const scheduler = new DDPMScheduler(parseSchedulerConfig({}));
    const x = randn([1, 3, 2, 2], { generator: new Generator(0) });
    const step = { sample: x, modelOutput: x, timestep: 500, numInferenceSteps: 10 };
    assert.throws(() => scheduler.step(step), /Expected noise or prevSample/);
    const { logProb } = scheduler.step({ ...step, prevSample: x });
    assert.ok(Number.isFinite(logProb.item()));
  });
});

describe("the model family toy", () => {
  it("computes guidance as two predictions", () => {
    const model = ToyModel.fromPretrained(toy);
    const x = randn([2, 3, 8, 8], { generator: new Generator(2) });
    tidy(() => {
      const [embeds, negative] = [model.encodePrompts(["a wall", "a door"]), model.encodePrompts([""])];
      const one = (states: typeof embeds): Tensor => model.predict(x, [801, 401], model.condition(states));
      const guided = model.predict(x, [801, 401], model.condition(embeds, { guidanceScale: 3, negative }));
      const without = one(model.encodePrompts(["", ""]));
      const expected = without.add(one(embeds).sub(without).mul(3));
      assert.ok(guided.sub(expected).abs().amax().item() < 1e-5);
    });
    model.dispose();
  });

  it("is written whole, and read again to the bit", () => {
    const model = ToyModel.fromPretrained(toy);
    const copy = join(folder, "copy");
    model.savePretrained(copy);
    assert.throws(() => model.savePretrained(copy), /Expected an empty or new folder/);
    const again = ToyModel.fromPretrained(copy);
    for (const [name, own] of model.denoiser.parameters()) {
      assert.deepEqual(again.denoiser.parameters().get(name)!.toArray(), own.toArray());
    }
    for (const one of [model, again]) one.dispose();
  });

  it("leaves a LoRA under its denoiser's name, which it takes up again", async () => {
    const { run } = await trained("lora", lora, { stages: 1 });
    const file = join(run, "stages/0000/pytorch_lora_weights.safetensors");
    const keys = [...readHeader(file).tensors.keys()];
    assert.ok(
      keys.every((key) => key.startsWith("transformer.linear_")),
      keys.join(),
    );
    const config = resolveConfig(values, lora);
    Policy.forInference(config, { loras: [{ file, weight: 1 }] }).dispose();
  });
});

describe("plugins that train", () => {
  const learns = (rewards: readonly number[]): void => {
    const [first, last] = [rewards[0]!, rewards.at(-1)!];
    assert.ok(last > first + 0.005, `the mean reward went from ${first} to ${last}`);
  };

  it("toy and colour, with the gradient of the policy", async () => learns((await trained("ppo")).rewards));

  it("awr, which needs no log-probs", async () => {
    learns((await trained("awr", { objective: { name: "awr" } })).rewards);
  });

  it("all together", async () => {
    const { rewards } = await trained("all", {
      objective: { name: "awr", temperature: 1 },
      scheduler: { name: "ddpm" },
    });
    learns(rewards);
  });

  it("and no stage leaves a tensor behind", async () => {
    const trainer = await Trainer.open(join(folder, "tensors"), resolveConfig(values, { stages: 4 }));
    const left: number[] = [];
    await trainer.runAll({ after: () => void left.push(liveTensors()) });
    trainer.dispose();
    assert.deepEqual(left, Array(4).fill(left[0]));
  });

  it("from the command line, by their files", () => {
    const run = join(folder, "cli");
    const plugins = ["reward", "objective", "scheduler", "model"].map((name) => `dist/examples/plugins/${name}.js`);
    const settings = {
      "model.path": toy,
      stages: 1,
      "sample.rootsPerStage": 4,
      rewards: "colour",
      "objective.name": "awr",
      "scheduler.name": "ddpm",
      "train.parameters": "full",
      "lora.rank": 4,
      "eval.enabled": false,
      "eval.sheet": 0,
    };
    const args = [
      ...plugins.flatMap((file) => ["--plugin", file]),
      ...Object.entries(settings).flatMap(([key, value]) => ["--set", `${key}=${value}`]),
    ];
    execFileSync(process.execPath, ["bin/b2.js", "run", run, "--preset", "demo", ...args], {
      cwd: repository,
      stdio: "pipe",
    });
    assert.deepEqual(readdirSync(join(run, "model")).sort(), ["toy.json", "transformer"]);
  });
});
