// An evaluation's rows, held against the images that it saw, and the judge of the embedded world.
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { Policy } from "../src/b2/policy/policy.js";
import { silent } from "../src/base/progress.js";
import { evaluationTable } from "../src/cli/table.js";
import { evaluate, openJudges, type EvaluationRow, type Judges, type PromptMeasures } from "../src/eval/index.js";
import { resolveModel } from "../src/hub/index.js";
import { RewardResources, RewardSet } from "../src/rewards/index.js";
import { tidy, type Tensor } from "../src/torch/index.js";
import { fixtures, repository } from "./support/folders.js";
import { redness, tinyConfig } from "./support/tiny.js";

const context = { progress: silent, signal: undefined };
const close = (a: number | null, b: number): boolean => a !== null && Math.abs(a - b) < 1e-6;

describe("an evaluation with a judge that tells slots apart", () => {
  const prompts = ["a cat", "a dog", "red apple"];
  const config = tinyConfig({ eval: { imagesPerPrompt: 4 } });
  /** The pixels of each image, in the order of the judges' calls. */
  const seen: number[][] = [];
  /** Right are two of the cat's images, three of the dog's and one of the apple's. */
  const right = [0, 2, 4, 5, 7, 8];

  async function rows(judges: Partial<Judges> = {}): Promise<readonly EvaluationRow[]> {
    const policy = Policy.forInference(config);
    try {
      const all = { rewards: RewardSet.of(redness), ...judges };
      return (await evaluate(policy, all, { training: prompts }, config, context)).rows;
    } finally {
      policy.dispose();
    }
  }

  /** The six numbers of each image's colours, of no particular length. */
  const features = (images: Tensor): Tensor =>
    images
      .reshape([images.size(0), 3, 2, -1])
      .mean({ dim: 3 })
      .reshape([images.size(0), 6]);
  const truth: Judges["truth"] = (images, batch) => {
    const first = seen.length;
    batch.forEach((_, i) => seen.push(tidy(() => images.select(0, i).toArray())));
    return batch.map((prompt, i) => {
      const isRight = right.includes(first + i);
      return { right: isRight, slots: { kind: isRight || first + i === 1, [prompt]: isRight } };
    });
  };

  it("reports each slot over the prompts that have it", async () => {
    seen.length = 0;
    const [row] = await rows({ truth, features });
    assert.deepEqual(Object.keys(row!.slots), ["kind", ...prompts]);
    assert.ok(close(row!.trueAlignment!.mean, 6 / 12));
    assert.ok(close(row!.slots["kind"]!.mean, 7 / 12));
    assert.ok(close(row!.slots["a dog"]!.mean, 3 / 4));
    assert.deepEqual(row!.perPrompt[0]!.slots, { kind: 0.75, "a cat": 0.5 });
  });

  it("measures diversity among right images over their pairs, and says how many", async () => {
    seen.length = 0;
    const [row] = await rows({ truth, features });
    assert.deepEqual(
      row!.perPrompt.map(({ rightPairs }) => rightPairs),
      [1, 3, 0],
    );
    assert.equal(row!.rightPairs, 4);
    const distance = (a: number, b: number): number =>
      seen[a]!.reduce((sum, x, k) => sum + Math.abs(x - seen[b]![k]!), 0) / seen[a]!.length;
    const [cat, dog] = [distance(0, 2), [distance(4, 5), distance(4, 7), distance(5, 7)]];
    const pixels = (prompt: PromptMeasures): number | null => prompt.pixelDiversityAmongRight;
    assert.ok(close(pixels(row!.perPrompt[0]!), cat));
    assert.ok(close(pixels(row!.perPrompt[1]!), dog.reduce((sum, d) => sum + d) / 3));
    assert.equal(pixels(row!.perPrompt[2]!), null, "one right image makes no pair");
    assert.ok(close(row!.pixelDiversityAmongRight!.mean, [cat, ...dog].reduce((sum, d) => sum + d) / 4));
    assert.ok(row!.diversity!.mean > 0);
    assert.ok(row!.diversityAmongRight!.mean > 0);
    assert.notEqual(row!.diversityAmongRight!.mean, row!.diversity!.mean);
  });

  it("has none of them without a judge, and the same diversity over all", async () => {
    const [[judged], [row]] = [await rows({ truth, features }), await rows({ features })];
    assert.deepEqual(row!.diversity, judged!.diversity);
    assert.deepEqual(row!.slots, {});
    for (const measure of ["trueAlignment", "diversityAmongRight", "pixelDiversityAmongRight", "rightPairs"] as const) {
      assert.equal(row![measure], null, measure);
    }
  });
});

describe("the sampler of evaluations", () => {
  /** All pixels that an evaluation sees, under a config. */
  async function images(...layers: object[]): Promise<number[]> {
    const config = tinyConfig({ eval: { imagesPerPrompt: 1 } }, ...layers);
    const policy = Policy.forInference(config);
    const pixels: number[] = [];
    const reward = (batch: Tensor): Promise<number[]> => {
      pixels.push(...tidy(() => batch.toArray()));
      return redness(batch);
    };
    await evaluate(policy, { rewards: RewardSet.of(reward) }, { training: ["a cat", "a dog"] }, config, context);
    policy.dispose();
    return pixels;
  }

  for (const path of ["sd1", "sd3"]) {
    it(`has steps and noise of its own, ${path}`, async () => {
      const model = { model: { path: join(fixtures, path) } };
      const [training, steps, both] = [
        await images(model),
        await images(model, { eval: { steps: 2 } }),
        await images(model, { eval: { steps: 2, noise: "none" } }),
      ];
      assert.deepEqual(await images(model, { eval: { steps: 4 } }), training);
      assert.deepEqual(steps, await images(model, { sample: { steps: 2 }, interval: { last: 2 } }));
      assert.notDeepEqual(steps, training);
      // Learning from log-probs goes with it, which it does not with a scheduler without noise.
      const name = path === "sd1" ? "ddim" : "flow-match";
      const ode = {
        scheduler: { name, eta: 0 },
        objective: { name: "forward" },
        branch: { count: 1 },
        select: { mode: "all" },
      };
      assert.deepEqual(both, await images(model, ode, { eval: { steps: 2 } }));
      assert.notDeepEqual(both, steps);
    });
  }

  it("is refused where the model or its scheduler cannot", async () => {
    await import(join(repository, "dist/examples/plugins/scheduler.js"));
    const refused = async (layer: object, message: RegExp): Promise<void> => {
      await assert.rejects(images(layer), { name: "InputError", message });
    };
    await refused({ eval: { steps: 1000 } }, /^Expected eval\.steps that the scheduler of .* but received 1000: /);
    await refused(
      { scheduler: { name: "ddpm" }, eval: { noise: "none" } },
      /^Expected eval\.noise "everywhere" for the scheduler ddpm, .* but received "none"$/,
    );
  });
});

describe("the embedded world's judge", () => {
  it("finds the slots of each prompt's scene, all of which make it right", async () => {
    const config = tinyConfig({
      model: { path: "models/emoji", height: null, width: null },
      sample: { steps: 6, guidanceScale: 1, batchSize: 12, decodeBatchSize: 12 },
      eval: { truth: "emoji", clip: null, imagesPerPrompt: 4 },
    });
    const policy = Policy.forInference(config);
    const resources = new RewardResources("cpu", resolveModel);
    const judges = openJudges(config, RewardSet.of(redness), resources);
    const training = ["a fox riding a bike", "green apple", "cat on house"];
    const { rows } = await evaluate(policy, judges, { training }, config, context);
    for (const owner of [policy, judges, resources]) owner.dispose?.();
    const [row] = rows;
    assert.deepEqual(
      row!.perPrompt.map(({ slots }) => Object.keys(slots)),
      [
        ["template", "animal", "activity"],
        ["template", "colour", "fruit"],
        ["template", "axis", "first", "second"],
      ],
    );
    assert.ok(row!.slots["template"]!.mean > 0.5, "the base model draws the right template most times");
    const table = evaluationTable({ base: { rows } });
    assert.match(table, new RegExp(`^training  - of their pixels +\\S.* \\(${row!.rightPairs}\\)$`, "m"));
    assert.match(table, /^prompts +true alignment of +base$/m);
    assert.match(table, /^training {2}second +\d+\.\d%$/m);
    for (const { prompt, slots, trueAlignment } of row!.perPrompt) {
      const shares = Object.values(slots);
      assert.ok(trueAlignment! <= Math.min(...shares), prompt);
      assert.ok(trueAlignment! >= 1 - shares.reduce((sum, share) => sum + 1 - share, 0) - 1e-9, prompt);
    }
  });
});
