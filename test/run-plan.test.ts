// What `b2 run` finds out before it reads a model: refusals that cost nothing, and the counts of --dry-run.
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, mock } from "node:test";
import { dryRun, estimate } from "../src/b2/dry-run.js";
import { resolveConfig, Trainer, type Config, type ConfigInput, type TrainSet } from "../src/b2/index.js";
import { Experiment } from "../src/eval/index.js";
import type { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { RunReader, RunWriter } from "../src/runs/index.js";
import { b2With, warmB2, warmB2With } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { tinyConfig, tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();

/** A model, or a CLIP, without its weights. */
function withoutWeights(from: string): string {
  const to = join(folder, "weightless", from);
  cpSync(join(fixtures, from), to, { recursive: true, filter: (file) => !file.endsWith(".safetensors") });
  return to;
}

const weightless = withoutWeights("sd1");
const clip = join(weightless, "clip");
const damaged = (...layers: object[]): Config =>
  tinyConfig(
    { model: { path: weightless }, rewards: [{ name: "clip-score", model: clip }], eval: { enabled: true, clip } },
    ...layers,
  );

/** A run with a finished stage, as far as its folder says. */
function finishedRun(name: string, config: Config): string {
  const run = join(folder, name);
  const writer = RunWriter.create(run, { config, reward: "config" });
  writer.beginStage(0);
  writeFileSync(writer.stagePath(0, "metrics"), "{}");
  return run;
}

describe("before any model is read", () => {
  const occupied = join(folder, "occupied");
  mkdirSync(occupied);
  writeFileSync(join(occupied, "thesis.txt"), "");
  const file = join(folder, "file");
  writeFileSync(file, "");
  const run = finishedRun("finished", damaged());

  const refusals: readonly [what: string, run: string, config: Config, message: RegExp][] = [
    ["another config than the run's", run, damaged({ seed: 1 }), /^Expected the config that .*\n {2}seed: 42 -> 1\n/],
    ["a folder with other files", occupied, damaged(), /occupied, which holds other files$/],
    ["a file for a folder", file, damaged(), /^Expected a folder to write the run to but received \S+file /],
    ["a file above the folder", join(file, "run"), damaged(), /^Expected a folder to write the run to but received /],
    ["a device that is not there", join(folder, "new"), damaged({ model: { device: "cuda:99" } }), /model\.device/],
    [
      "prompts that are not there",
      join(folder, "new"),
      damaged({ prompts: { train: join(folder, "no-prompts.txt") } }),
      /no-prompts\.txt/,
    ],
  ];
  for (const [what, target, config, message] of refusals) {
    it(`${what} is refused`, async () => {
      for (const kind of [Experiment, Trainer]) {
        await assert.rejects(kind.open(target, config), (error: Error) => {
          assert.match(error.message, message);
          assert.doesNotMatch(error.message, /weightless/);
          return true;
        });
      }
    });
  }

  it("prompts that eval.truth does not know are refused", async () => {
    const config = damaged({ prompts: { train: ["a nap"] }, eval: { truth: "emoji" } });
    await assert.rejects(Experiment.open(join(folder, "new"), config), /for eval\.truth "emoji" but received "a nap"/);
  });

  it("with nothing to refuse it is the weights that are missed, and no folder is made", async () => {
    for (const kind of [Experiment, Trainer]) {
      await assert.rejects(kind.open(join(folder, "new"), damaged()), /weightless/);
      await assert.rejects(kind.open(join(folder, "new"), damaged({ rewards: ["brightness"] })), /weightless/);
    }
    assert.ok(!existsSync(join(folder, "new")));
  });

  it("b2 run says the same", async () => {
    const config = join(folder, "damaged.json");
    writeFileSync(config, JSON.stringify(damaged()));
    const { code, stderr } = await warmB2("run", occupied, "--config", config);
    assert.equal(code, 2);
    assert.match(stderr, /occupied, which holds other files/);
    assert.deepEqual(readdirSync(occupied), ["thesis.txt"]);
  });
});

describe("what trains nothing needs no reward and no measure", () => {
  const elsewhere = "nobody-here/no-such-clip";
  const config = join(folder, "elsewhere.json");
  const values: ConfigInput = {
    ...tinyValues,
    rewards: [{ name: "clip-score", model: elsewhere }],
    eval: { clip: elsewhere, truth: "none" },
  };
  writeFileSync(config, JSON.stringify(values));
  const offline = (...args: string[]) =>
    warmB2With({ HF_HUB_OFFLINE: "1", HF_HOME: join(folder, "hub"), HF_HUB_CACHE: "" }, ...args);

  it("b2 generate", async () => {
    const out = join(folder, "images");
    const { code, stderr } = await offline("generate", "a cat", "--config", config, "--out", out);
    assert.equal(code, 0, stderr);
    assert.deepEqual(readdirSync(out), ["00-0-a-cat.png", "metadata.jsonl"]);
  });

  it("b2 merge", async () => {
    const out = join(folder, "merged");
    const { code, stderr } = await offline("merge", out, "--config", config, "--lora", join(fixtures, "sd1/lora"));
    assert.equal(code, 0, stderr);
    assert.ok(existsSync(join(out, "model_index.json")));
  });

  it("but b2 run does, and b2 eval", async () => {
    for (const args of [["run", join(folder, "missing")], ["eval"]]) {
      const { code, stderr } = await offline(...args, "--config", config);
      assert.equal(code, 2, stderr);
      assert.match(stderr, /no-such-clip/);
    }
    assert.ok(!existsSync(join(folder, "missing")));
  });
});

describe("before anything is downloaded or written", () => {
  const config = join(folder, "far.json");
  writeFileSync(config, JSON.stringify({ ...tinyValues, model: { path: "nobody-here/no-such-model" } }));
  const out = join(folder, "out");
  const lora = ["--lora", join(fixtures, "sd1/lora")];
  const commands = [
    ["run", out],
    ["sample", out],
    ["generate", "a cat", "--out", out],
    ["eval", "--out", join(out, "eval.json")],
    ["merge", out, ...lora],
    ["probe", "--out", out],
  ];
  for (const [command, ...args] of commands as [string, ...string[]][]) {
    it(`b2 ${command} looks at the device`, async () => {
      const { code, stderr } = await warmB2(command, ...args, "--config", config, "--device", "cuda:99");
      assert.equal(code, 2);
      assert.match(stderr, /^b2: Expected .*cuda:.* for model\.device.*\n$|^b2: Expected a CUDA device .*\n$/);
      assert.ok(!existsSync(out));
    });
  }

  it("weights are looked for, the last of several too", async () => {
    const absent = join(folder, "absent.safetensors");
    const { code, stderr } = await warmB2(
      "generate",
      "a cat",
      "--config",
      config,
      ...lora,
      "--lora",
      absent,
      "--out",
      out,
    );
    assert.equal(code, 2);
    assert.match(
      stderr,
      /^b2: Expected a run folder, a LoRA file or a name on the hub for --lora but received \S+absent/,
    );
    assert.ok(!existsSync(out));
  });
});

describe("--dry-run", () => {
  const values = {
    ...tinyValues,
    stages: 3,
    select: { mode: "all" },
    train: { ...tinyValues.train, epochs: 2, timestepFraction: 0.5 },
    eval: { ...tinyValues.eval, enabled: true, every: 2, maxPrompts: 2, steps: 3 },
  };

  it("prints models, rewards and passes, without libtorch, and writes and downloads nothing", async () => {
    const config = join(folder, "dry.json");
    const hub = { model: { ...tinyValues.model, path: "nobody-here/no-such-model" } };
    const rewards = [{ name: "clip-score", model: "models/emoji-clip", weight: 2, label: "match" }, "brightness"];
    writeFileSync(config, JSON.stringify({ ...values, ...hub, rewards }));
    const cache = join(folder, "dry-hub");
    const without = { LIBTORCH: "/no/such/libtorch", HF_HOME: cache, HF_HUB_CACHE: "" };
    const run = join(folder, "dry");
    const { code, stdout, stderr } = await b2With(without, "run", run, "--config", config, "--dry-run");
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^ {2}nobody-here\/no-such-model: not in the cache, will be downloaded$/m);
    assert.match(stdout, /^ {2}models\/emoji-clip: 2 MB of weights in \/.*models\/emoji-clip$/m);
    assert.match(stdout, /^rewards, 18 images in 3 stages and 18 in evaluations$/m);
    assert.match(stdout, /^ {2}match, weight 2: .*CLIP/m);
    assert.match(stdout, /^ {2}brightness, weight 1: /m);
    assert.match(stdout, /^objective ppo, from transitions$/m);
    const { samplingPasses, backwardPasses, evaluationPasses } = estimate(resolveConfig(values));
    assert.match(stdout, new RegExp(`^ {2}sampling: ${samplingPasses} forward$`, "m"));
    assert.match(stdout, new RegExp(`^ {2}training: at most ${backwardPasses} forward and backward$`, "m"));
    assert.match(stdout, new RegExp(`^ {2}evaluations: ${evaluationPasses} forward$`, "m"));
    assert.ok(!existsSync(run) && !existsSync(cache));
  });

  it("says that last steps with hardly any noise teach nothing, where they are trained", () => {
    const of = (...layers: ConfigInput[]): boolean =>
      /^scheduler flow-match: the last 2 steps .* hardly any noise or none, .*interval\.skipLast=2/m.test(
        dryRun(resolveConfig(values, { rewards: ["brightness"] }, { scheduler: { name: "flow-match" } }, ...layers)),
      );
    assert.ok(of());
    assert.ok(of({ interval: { first: 3, skipLast: 1 } }));
    assert.ok(!of({ interval: { first: 3, skipLast: 2 } }));
    assert.ok(!of({ scheduler: { noise: "flow-sde" } }));
    assert.ok(!of({ objective: { name: "forward" } }));
    assert.ok(!of({ scheduler: { name: "ddim" } }));
  });

  for (const guidanceScale of [1, 5]) {
    it(`counts what a run does, with a guidance of ${guidanceScale}`, async () => {
      const config = resolveConfig(values, { sample: { guidanceScale }, rewards: ["brightness"] });
      const counted = estimate(config);
      const run = join(folder, `real-${guidanceScale}`);
      const experiment = await Experiment.open(run, config);
      const { trainer } = experiment;
      // The rows of every pass through the UNet.
      const passes = { sampling: 0, training: 0, evaluations: 0 };
      const { unet } = trainer.policy.model as StableDiffusionPipeline;
      let phase: keyof typeof passes = "evaluations";
      const within = async <T>(name: keyof typeof passes, work: () => Promise<T>): Promise<T> => {
        phase = name;
        try {
          return await work();
        } finally {
          phase = "evaluations";
        }
      };
      const [sample, update] = [trainer.sample.bind(trainer), trainer.update.bind(trainer)];
      mock.method(trainer, "sample", (stage: number) => within("sampling", () => sample(stage)));
      mock.method(trainer, "update", (trainSet: TrainSet) => within("training", () => update(trainSet)));
      const forward = unet.forward.bind(unet);
      mock.method(unet, "forward", (...args: Parameters<typeof forward>) => {
        passes[phase] += args[0].size(0);
        return forward(...args);
      });
      await experiment.run();
      experiment.dispose();

      const reader = new RunReader(run);
      const sum = (numbers: readonly number[]): number => numbers.reduce((total, n) => total + n, 0);
      assert.equal(sum([0, 1, 2].map((stage) => reader.samples(stage).length)), counted.images);
      assert.equal(sum(reader.metrics().map(({ pairs }) => pairs)), counted.pairs);
      assert.deepEqual(
        {
          sampling: counted.samplingPasses,
          training: counted.backwardPasses + counted.forwardPasses,
          evaluations: counted.evaluationPasses,
        },
        passes,
      );
      const evaluations = readdirSync(join(run, "eval")).sort();
      assert.deepEqual(evaluations, ["after.json", "before.json", "stage-0002.json"]);
      const images = evaluations.map((name) => {
        const { rows } = JSON.parse(readFileSync(join(run, "eval", name), "utf8")) as { rows: { images: number }[] };
        return sum(rows.map((row) => row.images));
      });
      assert.equal(sum(images), counted.evaluationImages);
    });
  }
});
