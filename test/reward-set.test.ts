// Several rewards at once: which are asked, when, with what, and how long they may take.
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { z } from "zod";
import { resolveConfig } from "../src/b2/index.js";
import { Policy } from "../src/b2/policy/policy.js";
import { decodeInBatches } from "../src/b2/rollout/decode.js";
import {
  registerReward,
  RewardError,
  RewardResources,
  RewardSet,
  type Reward,
  type WeightedReward,
} from "../src/rewards/index.js";
import { Generator, liveTensors, randn, tidy, zeros, type Tensor } from "../src/torch/index.js";
import { tinyConfig } from "./support/tiny.js";

describe("rewards of a set", () => {
  const images = (): Tensor => zeros([2, 3, 4, 4]);
  const kinds = new Map<string, Reward>();
  registerReward({
    name: "test-given",
    summary: "A reward that the test gives",
    cost: "nothing",
    options: z.object({ which: z.string() }),
    open: ({ which }) => kinds.get(String(which))!,
  });
  const setOf = (rewards: Record<string, Reward>, more: Record<string, Partial<WeightedReward>> = {}) => {
    for (const [name, reward] of Object.entries(rewards)) kinds.set(name, reward);
    const named = Object.keys(rewards).map((which) => ({
      name: "test-given",
      weight: 1,
      label: which,
      which,
      ...more[which],
    }));
    return RewardSet.open(named, new RewardResources("cpu"));
  };

  it("that wait for others answer side by side, and while the rest computes", async () => {
    const began: string[] = [];
    let allBegan = (): void => undefined;
    const all = new Promise<void>((resolve) => (allBegan = resolve));
    const waiting = (name: string): Reward => ({
      concurrent: true,
      score: async () => {
        began.push(name);
        await all;
        return [1, 2];
      },
    });
    const local: Reward = {
      score: () => {
        began.push("local");
        allBegan();
        return [3, 4];
      },
    };
    const set = await setOf({ one: waiting("one"), local, two: waiting("two") });
    const { total, parts } = await set.score(images(), ["a", "b"]);
    assert.deepEqual(began, ["one", "two", "local"]);
    assert.deepEqual(total, [5, 8]);
    assert.deepEqual(Object.keys(parts), ["one", "local", "two"], "in the config's order");
    assert.equal(set.concurrent, true);
  });

  it("know which image it is, and what is known of its prompt", async () => {
    let seen: unknown;
    const keys = [0, 1].map((index) => ({ group: "stage-0000/root-0003", index }));
    const metadata = [{ tag: "colour" }, {}];
    const set = await setOf({
      asks: {
        score: (_, prompts, call) => {
          seen = [prompts, call?.keys, call?.metadata];
          return [0, 0];
        },
      },
    });
    await set.score(images(), ["a", "b"], { keys, metadata });
    assert.deepEqual(seen, [["a", "b"], keys, metadata]);
  });

  it("that judge are asked in evaluations alone, and are no part of the sum", async () => {
    let asked = 0;
    const judge: Reward = { score: () => (asked++, [10, 20]) };
    const set = await setOf({ trained: { score: () => [1, 2] }, judge }, { judge: { role: "judge", weight: 100 } });
    assert.deepEqual([set.labels, set.judges], [["trained"], ["judge"]]);
    const training = await set.score(images(), ["a", "b"]);
    assert.deepEqual([asked, training.total, training.parts], [0, [1, 2], { trained: [1, 2] }]);
    const evaluating = await set.score(images(), ["a", "b"], { judges: true });
    assert.deepEqual([asked, evaluating.total], [1, [1, 2]]);
    assert.deepEqual(evaluating.parts, { trained: [1, 2], judge: [10, 20] });
    assert.throws(
      () => resolveConfig({ rewards: [{ name: "brightness", role: "judge" }] }),
      /Expected a reward of role "train" to learn from but received judges only/,
    );
  });

  it("that take too long are given up, and told so; others that wait are not waited for", async () => {
    let told = false;
    const never: Reward = {
      concurrent: true,
      score: (_, __, call) =>
        new Promise((_resolve, reject) => {
          const alive = setInterval(() => undefined, 1000);
          call!.signal!.addEventListener("abort", () => {
            told = true;
            clearInterval(alive);
            reject(new Error("stopped"));
          });
        }),
    };
    const set = await setOf({ slow: never }, { slow: { timeout: 0.05 } });
    await assert.rejects(
      set.score(images(), ["a", "b"], { keys: [{ group: "g", index: 4 }] }),
      /^RewardError: Expected an answer from the reward slow for 2 images from image 0, "a" \(g, image 4\) but received none in 0\.05 seconds/,
    );
    assert(told);
    told = false;
    const failing = await setOf({
      slow: never,
      broken: {
        score: () => {
          throw new TypeError("no such thing");
        },
      },
    });
    await assert.rejects(failing.score(images(), ["a", "b"]), /reward broken .* threw TypeError: no such thing/);
    assert(told, "the one that waits hears that its answer is of no use");
  });

  it("stop waiting when the run is interrupted", async () => {
    const controller = new AbortController();
    const set = await setOf({
      deaf: { concurrent: true, score: () => new Promise(() => setTimeout(() => undefined, 50)) },
    });
    const scoring = set.score(images(), ["a", "b"], { signal: controller.signal });
    controller.abort();
    await assert.rejects(scoring, { name: "Interrupted" });
  });

  it("can say at the end that scores are missing", async () => {
    const set = await setOf({
      people: {
        score: () => [0, 0],
        complete: () => {
          throw new RewardError("2 images wait for a person");
        },
      },
    });
    await set.score(images(), ["a", "b"]);
    await assert.rejects(set.complete(), /2 images wait for a person/);
  });

  it("that wait see the next images before they have answered for the last", async () => {
    const policy = Policy.forInference(tinyConfig());
    const latents = tidy(() => randn([4, ...policy.latentShape], { generator: new Generator(0) }));
    const decoded: number[] = [];
    let second = (): void => undefined;
    const secondSeen = new Promise<void>((resolve) => (second = resolve));
    const live = liveTensors();
    await decodeInBatches(policy, latents, { batchSize: 2, ahead: 1 }, async (batch, start) => {
      decoded.push(start);
      if (start === 2) second();
      await secondSeen;
      assert.equal(batch.size(0), 2, "its images are still there");
    });
    assert.deepEqual(decoded, [0, 2]);
    assert.equal(liveTensors(), live);
    latents.dispose();
    policy.dispose();
  });
});
