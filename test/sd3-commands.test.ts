// Stable Diffusion 3 on the command line: the sampler of evaluations, merged models, probes, and what is refused.
import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, describe, it } from "node:test";
import { readImage } from "../src/images/index.js";
import { tidy } from "../src/torch/index.js";
import { b2, warmB2, type Outcome } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const at = (...names: string[]): string => join(folder, ...names);
const json = (...names: string[]): Record<string, unknown> =>
  JSON.parse(readFileSync(at(...names), "utf8")) as Record<string, unknown>;

/** Flow-SDE, whose every step has a log-prob, and evaluations in five steps without noise. */
const config = at("config.json");
writeFileSync(
  config,
  JSON.stringify({
    ...tinyValues,
    stages: 1,
    model: { path: join(fixtures, "sd3"), height: 16, width: 24, options: { maxSequenceLength: 8 } },
    scheduler: { name: "flow-match", noise: "flow-sde" },
    rewards: ["brightness"],
    eval: { ...tinyValues.eval, enabled: true, steps: 5, noise: "none" },
  }),
);
const run = at("run");
const set = (...values: string[]): string[] => values.flatMap((value) => ["--set", value]);

async function ok(outcome: Promise<Outcome>): Promise<Outcome> {
  const { code, stderr } = await outcome;
  assert.equal(code, 0, stderr);
  return outcome;
}

describe("a run of Stable Diffusion 3", () => {
  before(() => ok(b2("run", run, "--config", config)));

  it("is evaluated in steps of its own, as b2 eval does, and again where they change", async () => {
    const rows = (...names: string[]): unknown => json(...names)["rows"];
    const [before, after] = ["before.json", "after.json"].map((name) => rows("run", "eval", name));
    await ok(warmB2("eval", "--lora", run, "--compare", "--out", at("own.json")));
    const own = json("own.json") as Record<string, { rows: unknown }>;
    assert.deepEqual([own["base"]!.rows, own["LoRA"]!.rows], [before, after]);
    const training = set("eval.steps=null", "eval.noise=everywhere");
    await ok(b2("run", run, ...training));
    const [others, trained] = ["before.json", "after.json"].map((name) => rows("run", "eval", name));
    assert.notDeepEqual(others, before);
    await ok(warmB2("eval", "--config", config, ...training, "--lora", run, "--out", at("training.json")));
    assert.deepEqual((json("training.json") as typeof own)["LoRA"]!.rows, trained);
  });

  it("gives a LoRA that merges, and pictures without noise are the merged model's", async () => {
    await ok(warmB2("merge", at("merged"), "--lora", run));
    const picture = async (name: string, ...options: string[]): Promise<number[]> => {
      await ok(warmB2("generate", "a cat", "--config", config, "--out", at(name), ...options));
      const image = await readImage(
        at(
          name,
          readdirSync(at(name)).find((file) => file.endsWith(".png"))!,
        ),
      );
      return tidy(() => image.toArray());
    };
    const path = `model.path=${at("merged")}`;
    const [base, learnt, merged] = [
      await picture("base"),
      await picture("learnt", "--lora", run),
      await picture("of-merged", ...set(path)),
    ];
    const difference = (other: readonly number[]): number =>
      Math.max(...learnt.map((value, i) => Math.abs(value - other[i]!)));
    assert.ok(difference(merged) <= 2 / 255);
    assert.ok(difference(base) > 2 / 255);
    // The base model's own steps, of training: another picture.
    assert.notDeepEqual(await picture("training", ...set("eval.steps=null")), base);
  });
});

it("b2 probe sees that the last step of CPS decides nothing, and all of them everything", async () => {
  const options = ["--roots", "2", "--branches", "2", "--splits", "all", "--out", at("probe")];
  await ok(warmB2("probe", "--config", config, ...set("scheduler.noise=cps"), ...options));
  const { measures } = json("probe", "probe.json") as { measures: { reward: { shares: { share: number }[] } } };
  const shares = measures.reward.shares.map(({ share }) => share);
  assert.deepEqual([shares.length, shares[0], shares[3]], [4, 0, 1]);
});

describe("what Stable Diffusion 3 cannot do is refused in a sentence", () => {
  const cases: Readonly<Record<string, RegExp>> = {
    "scheduler.eta=0": /^b2: Expected a scheduler with noise, such as eta over 0, for the objective ppo, /m,
    "scheduler.name=ddim":
      /scheduler_config\.json: Expected the noise schedule of a diffusion model but received a Flow/,
    "model.options.maxSequenceLength=600": /^b2: Expected at most 512 for model\.options\.maxSequenceLength but received 600$/m, // prettier-ignore
    "model.height=200": /^b2: Expected at most 192 pixels, the positions of the transformer, for a side of an image but received 200$/m, // prettier-ignore
  };
  for (const [value, message] of Object.entries(cases)) {
    it(value, async () => {
      const refused = set("branch.count=1", "select.mode=all", value);
      const { code, stderr } = await warmB2("run", at("refused"), "--config", config, ...refused);
      assert.equal(code, 2, stderr);
      assert.match(stderr, message);
      assert.deepEqual(readdirSync(folder).includes("refused"), false);
    });
  }
});
