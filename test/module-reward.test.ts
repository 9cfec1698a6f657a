// Rewards of one's own from modules: options, batches, what they may export, and the template of b2 new reward.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it, test } from "node:test";
import sharp from "sharp";
import ts from "typescript";
import { optionsOf } from "../src/base/registry.js";
import { RewardResources, rewards, type Reward } from "../src/rewards/index.js";
import { RunReader } from "../src/runs/index.js";
import { full, liveTensors, stack, tidy, type Tensor } from "../src/torch/index.js";
import { b2, warmB2 } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();

function file(name: string, text: string): string {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
}

/** Opens a module as a config would. */
async function open(path: string, others: object = {}): Promise<Reward> {
  const kind = rewards.get("module");
  return kind.open(optionsOf(kind, { name: "module", path, ...others }), new RewardResources("cpu"));
}

/** Images of one grey each, [B, 3, 4, 4]. */
const greys = (...levels: number[]): Tensor => tidy(() => stack(levels.map((level) => full([3, 4, 4], level))));

describe("a module", () => {
  it("with a function open gets the options and the context", async () => {
    const path = file(
      "factor.mjs",
      `export const open = async ({ factor = 1 }, context) => ({
         score: (images, prompts) => prompts.map(() => factor * context.device.length),
       });
       export default () => { throw new Error("not this one"); };`,
    );
    const images = greys(0);
    assert.deepEqual(await (await open(path, { options: { factor: 5 } })).score(images, ["a"]), [15]);
    assert.deepEqual(await (await open(path)).score(images, ["a"]), [3]);
    images.dispose();
  });

  it("may return a function from open, and keeps what its object is", async () => {
    const images = greys(0);
    const returns = file(
      "returns.mjs",
      "export const open = ({ value }) => (images, prompts) => prompts.map(() => value);",
    );
    assert.deepEqual(await (await open(returns, { options: { value: 2 } })).score(images, ["a"]), [2]);
    const path = file(
      "counter.mjs",
      `class Counter {
         #calls = 0;
         concurrent = true;
         score(images, prompts) { this.#calls++; return prompts.map(() => this.#calls); }
         complete() { this.#calls += 10; }
         dispose() { globalThis.disposedCounters = (globalThis.disposedCounters ?? 0) + 1; }
       }
       export default new Counter();`,
    );
    for (const batchSize of [null, 1]) {
      const reward = await open(path, { batchSize });
      assert.equal(reward.concurrent, true);
      const [first] = Array.from(await reward.score(images, ["a"]));
      await reward.complete?.();
      assert.deepEqual(Array.from(await reward.score(images, ["a"])), [first! + 11]);
      reward.dispose?.();
    }
    assert.equal((globalThis as { disposedCounters?: number }).disposedCounters, 2);
    images.dispose();
  });

  it("gets at most as many images at once as it or the config says", async () => {
    const path = file(
      "batches.mjs",
      `export const calls = [];
       export default {
         batchSize: 2,
         score: (images, prompts, { keys, metadata, signal }) => {
           calls.push([images.shape[0], prompts.join(""), keys.map(({ index }) => index).join(""), metadata.length, signal.aborted]);
           return new Float32Array(images.mean({ dim: [1, 2, 3] }).toArray());
         },
       };`,
    );
    const { calls } = (await import(path)) as { calls: unknown[][] };
    const images = greys(0, 0.25, 0.5, 0.75, 1);
    const prompts = ["a", "b", "c", "d", "e"];
    const call = {
      keys: prompts.map((_, index) => ({ group: "g", index })),
      metadata: prompts.map(() => ({})),
      signal: new AbortController().signal,
    };
    const live = liveTensors();
    const sizes = { own: [2, 2, 1], 4: [4, 1], 5: [5] };
    for (const [batchSize, expected] of Object.entries(sizes)) {
      calls.length = 0;
      const reward = await open(path, batchSize === "own" ? {} : { batchSize: Number(batchSize) });
      assert.deepEqual(Array.from(await reward.score(images, prompts, call)), [0, 0.25, 0.5, 0.75, 1]);
      assert.deepEqual(
        calls.map(([size]) => size),
        expected,
      );
      assert.equal(calls.map(([, texts]) => texts).join(""), "abcde");
      assert.equal(calls.map(([, , indices]) => indices).join(""), "01234");
      assert.ok(calls.every(([size, , , metadata, aborted]) => metadata === size && aborted === false));
    }
    assert.ok(liveTensors() <= live + 2 * (3 + 2 + 1), "the parts of a batch are freed"); // the module's own means stay
    images.dispose();
  });

  it("that answers with the wrong count for a part is found out, though the sum is right", async () => {
    let part = 0;
    (globalThis as { partSizes?: () => number[] }).partSizes = () => (part++ === 0 ? [1] : [1, 1, 1]);
    const path = file("parts.mjs", "export default () => globalThis.partSizes();");
    const images = greys(0, 0, 0, 0);
    const reward = await open(path, { batchSize: 2 });
    await assert.rejects(
      async () => reward.score(images, ["a", "b", "c", "d"]),
      /Expected 2 numbers, one per image, from the reward parts but received 1/,
    );
    images.dispose();
  });

  it("that is none is refused when it is opened", async () => {
    const wrong: [name: string, code: string, others: object, message: RegExp][] = [
      ["options.mjs", "export default () => [];", { options: { a: 1 } }, /Expected a function open\(options, context\) in .*options\.mjs, which the config has options for/],
      ["opens.mjs", "export const open = () => 5;", {}, /as what open of .*opens\.mjs returns but received number/],
      ["size.mjs", "export default { score: () => [], batchSize: 0 };", {}, /at least 1 for batchSize of default export of .* but received 0/],
      ["dispose.mjs", "export default { score: () => [], dispose: 1 };", {}, /Expected a function for dispose of .* but received 1/],
    ]; // prettier-ignore
    for (const [name, code, others, message] of wrong) await assert.rejects(open(file(name, code), others), message);
  });
});

test("b2 new reward writes a reward that works at once: scored, then trained with", async () => {
  const path = join(folder, "mine.js");
  const made = await b2("new", "reward", path);
  assert.equal(made.code, 0, made.stderr);
  assert.ok(made.stdout.includes(`b2 score IMAGES --rewards ${path}`));
  const text = readFileSync(path, "utf8");
  assert.ok(!text.includes("FILE") && !text.includes("sourceMappingURL"));
  assert.ok(text.includes(`--set rewards=${path}`));

  const again = await warmB2("new", "reward", path);
  assert.deepEqual([again.code, again.stdout], [2, ""]);
  assert.match(again.stderr, /^b2: Expected a new file but received .*mine\.js, which exists\n$/);
  assert.equal(readFileSync(path, "utf8"), text);

  const images = temporaryFolder();
  for (const [name, r, g] of [["red-wall", 255, 0], ["green-wall", 0, 255], ["yellow-wall", 255, 255]] as const) {
    const background = { r, g, b: 0 };
    await sharp({ create: { width: 8, height: 8, channels: 3, background } }).toFile(join(images, `${name}.png`));
  } // prettier-ignore
  const scoresOf = async (reward: string): Promise<string[]> => {
    const out = join(folder, "scores.json");
    const { code, stderr } = await b2("score", images, "--rewards", reward, "--out", out);
    assert.equal(code, 0, stderr);
    const { images: scored } = JSON.parse(readFileSync(out, "utf8")) as { images: { name: string; total: number }[] };
    return scored.map(({ name, total }) => `${name} ${total.toFixed(2)}`);
  };
  assert.deepEqual(await scoresOf(path), ["green-wall.png -0.33", "red-wall.png 0.67", "yellow-wall.png 0.33"]);
  const green = JSON.stringify([{ name: path, options: { channel: "green" }, batchSize: 2 }]);
  assert.deepEqual(await scoresOf(green), ["green-wall.png 0.67", "red-wall.png -0.33", "yellow-wall.png 0.33"]);

  const run = join(folder, "run");
  const config = file("tiny.json", JSON.stringify({ ...tinyValues, stages: 1 }));
  const trained = await b2("run", run, "--config", config, "--set", `rewards=${path}`);
  assert.equal(trained.code, 0, trained.stderr);
  const [metrics] = new RunReader(run).metrics();
  assert.ok(Math.abs(metrics!.rewardMean) < 2 / 3 && metrics!.rewardMean !== 0);
});

test("b2 new reward in TypeScript compiles, and does what the JavaScript does", async () => {
  const made = await warmB2("new", "reward", join(folder, "typed.ts"));
  assert.equal(made.code, 0, made.stderr);
  const typed = readFileSync(join(folder, "typed.ts"), "utf8");
  // The types are those of the package: the template itself is compiled with the project.
  assert.equal(
    typed.replaceAll(join(folder, "typed.ts"), "FILE"),
    readFileSync(join(repository, "src/rewards/template.ts"), "utf8"),
  );
  const { outputText } = ts.transpileModule(typed, { compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023 } }); // prettier-ignore
  const reward = await open(file("typed.mjs", outputText), { options: { channel: "blue" } });
  const images = greys(0.5);
  assert.deepEqual(Array.from(await reward.score(images, ["a wall"])), [0]);
  images.dispose();
});

test("b2 new reward takes names of modules alone", async () => {
  for (const name of ["mine.py", "my reward", "...", "mine.json"]) {
    const { code, stderr } = await warmB2("new", "reward", join(folder, name));
    assert.equal(code, 2);
    assert.match(stderr, /^b2: Expected a name such as my-reward, my-reward\.ts or my-reward\.js but received/);
    assert.ok(!existsSync(join(folder, name)));
  }
});
