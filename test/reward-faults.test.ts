// Rewards that fail in the middle of a stage: what is told, what is kept, and how the run goes on.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, describe, it } from "node:test";
import { RunReader } from "../src/runs/index.js";
import { b2, startB2, type Outcome } from "./support/cli.js";
import { temporaryFolder } from "./support/folders.js";
import { TestServer, type Handler } from "./support/servers.js";
import { tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();

/** A reward that depends on image and prompt, writes down what it is asked, and fails where `fault` says. */
const source = (asked: string, fault: string): string => `
import { appendFileSync } from "node:fs";
let calls = 0;
export default async (images, prompts, call) => {
  const call_ = calls++;
  ${fault}
  appendFileSync(${JSON.stringify(asked)}, call.keys.map(({ group, index }) => group + "/" + index + "\\n").join(""));
  const red = images.select(1, 0).mean({ dim: [1, 2] }).toArray();
  return red.map((value, i) => value + prompts[i].length / 100);
};
`;

/** A run whose reward can be mended: two batches of three images a stage. */
class Run {
  readonly path: string;
  readonly #module: string;
  readonly #asked: string;
  readonly #config: string;

  constructor(name: string, values: object = {}) {
    this.path = join(folder, name);
    this.#module = join(folder, `${name}.mjs`);
    this.#asked = join(folder, `${name}.txt`);
    this.#config = join(folder, `${name}.json`);
    const sample = { ...tinyValues.sample, decodeBatchSize: 3 };
    writeFileSync(
      this.#config,
      JSON.stringify({
        ...tinyValues,
        sample,
        rewards: [{ name: "module", path: this.#module, label: "mine" }],
        ...values,
      }),
    );
  }

  /** Runs with a reward that has this fault. */
  run(fault = "", ...args: string[]): Promise<Outcome> {
    return this.command("run", fault, ...args);
  }

  command(name: string, fault = "", ...args: string[]): Promise<Outcome> {
    writeFileSync(this.#module, source(this.#asked, fault));
    return b2(name, this.path, ...args, "--config", this.#config);
  }

  start(fault: string) {
    writeFileSync(this.#module, source(this.#asked, fault));
    return startB2("run", this.path, "--config", this.#config);
  }

  get reader(): RunReader {
    return new RunReader(this.path);
  }

  /** The images that the reward has answered for. */
  get asked(): string[] {
    return existsSync(this.#asked) ? readFileSync(this.#asked, "utf8").trim().split("\n") : [];
  }

  has(file: string): boolean {
    return existsSync(join(this.path, "stages/0000", file));
  }

  /** All that must not depend on whether a reward has failed in between. */
  outcome(): unknown {
    const stages = this.reader.finishedStages();
    return stages.map((stage) => {
      const { cost, rewardMean, loss, gradNorm } = this.reader.stageMetrics(stage);
      const { queries, forwardPasses, backwardPasses } = cost!;
      const lora = readFileSync(this.reader.stagePath(stage, "lora"));
      return [queries, forwardPasses, backwardPasses, rewardMean, loss, gradNorm, this.reader.samples(stage), lora];
    });
  }
}

const whole = new Run("whole");
const wholeOutcome = whole.run().then(({ code, stderr }) => {
  assert.equal(code, 0, stderr);
  return whole.outcome() as [queries: number, ...unknown[]][];
});

const faults: readonly (readonly [name: string, fault: string, message: RegExp])[] = [
  ["throws", 'if (call_ === 1) throw new Error("no more");', /but it threw Error: no more/],
  [
    "nan",
    "if (call_ === 1) return [1, NaN, 3];",
    /a finite number from the reward mine but received NaN for image 1, /,
  ],
  ["exit", "if (call_ === 1) process.exit(7);", /but it ended the process/],
  ["never", "if (call_ === 1) await new Promise(() => {});", /but received a promise that nothing can settle/],
  [
    "late",
    "if (call_ === 1) await new Promise(() => setInterval(() => {}, 1000));",
    /but received none in 2 seconds \(its option timeout\)/,
  ],
];

describe("a reward that fails keeps its stage", () => {
  for (const [name, fault, message] of faults) {
    it(name, async () => {
      const run = new Run(name);
      const { code, stderr } = await run.run(fault, "--set", "rewards.0.timeout=2");
      assert.equal(code, 2, stderr);
      assert.match(stderr, message);
      assert.match(stderr, /"(a cat|a dog|red apple)" \(stage-0000\/root-000\d, image \d\)/, "prompt and image");
      assert.match(stderr, /^(b2: )?What was sampled for stage 0 is kept: the same command goes on from there$/m);
      assert.doesNotMatch(stderr, /\n +at /);
      assert.equal(run.asked.length, 3);

      const again = await run.run();
      assert.equal(again.code, 0, again.stderr);
      assert.match(again.stderr + again.stdout, /stage 0: going on with 6 samples of an earlier attempt/);
      assert.equal(run.asked.length, new Set(run.asked).size, "no image is scored twice");
      for (const file of ["sampled.safetensors", "sampled.json", "scores.json", "partial.json"]) {
        assert(!run.has(file), file);
      }
      // The images of the batch that failed were asked for twice, which counts. All else is the same to the bit.
      const [expected, received] = [await wholeOutcome, run.outcome() as [number, ...unknown[]][]];
      received.forEach(([queries, ...rest], stage) => {
        const [expectedQueries, ...expectedRest] = expected[stage]!;
        assert.equal(queries, expectedQueries + 3);
        assert.deepEqual(rest, expectedRest);
      });
    });
  }

  it("also where it is interrupted", async () => {
    const run = new Run("interrupted");
    const { child, outcome } = run.start(
      'if (call_ === 1) { console.log("here"); await new Promise(() => setInterval(() => {}, 1000)); }',
    );
    child.stdout!.on("data", (text: Buffer) => text.toString().includes("here") && child.kill("SIGINT"));
    const { code, stderr } = await outcome;
    assert.equal(code, 130, stderr);
    assert(run.has("sampled.safetensors") && run.has("scores.json"));
    const again = await run.run();
    assert.equal(again.code, 0, again.stderr);
    assert.deepEqual(
      (run.outcome() as unknown[][]).map((stage) => stage.slice(1)),
      (await wholeOutcome).map((stage) => stage.slice(1)),
    );
  });

  it("and b2 select goes on where it stopped", async () => {
    const run = new Run("phases");
    const phase = (name: string, fault = "") => run.command(name, fault, "--stage", "0");
    assert.equal((await phase("sample")).code, 0);
    const failed = await phase("select", 'if (call_ === 1) throw new Error("no more");');
    assert.equal(failed.code, 2, failed.stderr);
    assert.equal((await phase("select")).code, 0);
    assert.equal(run.asked.length, new Set(run.asked).size);
    assert.equal((await phase("train")).code, 0);
    const [[queries, ...rest]] = run.outcome() as [[number, ...unknown[]]];
    const [expectedQueries, ...expectedRest] = (await wholeOutcome)[0]!;
    assert.equal(queries, expectedQueries + 3);
    assert.deepEqual(rest, expectedRest);
  });

  it("but samples that are damaged, or of another config, are sampled again", async () => {
    const run = new Run("damaged");
    const failing = "throw 1;";
    assert.equal((await run.run(failing)).code, 2);
    writeFileSync(join(run.path, "stages/0000/sampled.safetensors"), "x");
    const { code, stderr } = await run.run();
    assert.equal(code, 0, stderr);
    assert.match(stderr, /stage 0: sampling again, .* is damaged: \S+sampled\.safetensors/);
    assert.deepEqual(
      (run.outcome() as unknown[][]).map((stage) => stage.slice(3)),
      (await wholeOutcome).map((stage) => stage.slice(3)),
    );
    const other = new Run("other");
    assert.equal((await other.run(failing)).code, 2);
    const seeded = await other.run("", "--set", "seed=7");
    assert.equal(seeded.code, 0, seeded.stderr);
    assert.doesNotMatch(seeded.stderr, /samples of an earlier attempt/);
  });
});

describe("keys that decide nothing", () => {
  it("a run goes on with another timeout of a reward, but not with another weight", async () => {
    const run = new Run("resumed");
    assert.equal((await run.run("", "--set", "stages=1")).code, 0);
    const weight = await run.run("", "--set", "rewards.0.weight=2");
    assert.equal(weight.code, 2);
    assert.match(weight.stderr, /rewards\.0\.weight: 1 -> 2/);
    const timeout = await run.run("", "--set", "rewards.0.timeout=5");
    assert.equal(timeout.code, 0, timeout.stderr);
    assert.match(timeout.stderr + timeout.stdout, /resuming with rewards\.0\.timeout: 600 -> 5/);
  });
});

describe("a server that stays away", () => {
  it("stops the run, which goes on when it is back, at another address", async () => {
    let asked = 0;
    let isAway = false;
    const answer: Handler = (body, response) => {
      const { images } = JSON.parse(body.toString()) as { images: string[] };
      asked += images.length;
      isAway ||= asked > 4;
      if (isAway) response.writeHead(503).end("loading the model");
      else response.end(JSON.stringify({ scores: images.map((image) => image.length % 7) }));
    };
    const servers = [await TestServer.start(answer), await TestServer.start(answer)] as const;
    const [first, second] = servers;
    after(() => Promise.all(servers.map((server) => server.stop())));
    // Two batches of two images are under way at once; the third is asked for when the first is answered.
    const run = new Run("away", {
      sample: { ...tinyValues.sample, decodeBatchSize: 2 },
      rewards: [{ name: "http", url: first.url, retries: 0 }],
    });
    const { code, stderr } = await run.run();
    assert.equal(code, 2, stderr);
    assert.match(
      stderr,
      /For 2 images from image 0, "[a-z ]+" .*, the reward http says: Expected an answer from http:.* received status 503: "loading the model"/,
    );
    assert.match(stderr, /^What was sampled for stage 0 is kept/m);
    assert(run.has("sampled.safetensors") && run.has("scores.json"));

    [isAway, asked] = [false, -100];
    const again = await run.run("", "--set", `rewards.0.url=${second.url}`);
    assert.equal(again.code, 0, again.stderr);
    assert.match(again.stderr + again.stdout, /going on with 6 samples of an earlier attempt/);
    assert.equal(asked, -100 + 2 + 6, "what was answered is not asked for again");
  });
});
