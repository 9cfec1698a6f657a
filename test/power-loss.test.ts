/**
 * Power cuts: what a run has written is cut off at every step, with whatever was not synced lost or not, and the run goes on
 * right from what is left.
 */
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import type { Config } from "../src/b2/index.js";
import { configOfFolder, expectState, resumeFolder, type FolderPlan } from "../src/b2/run-plan.js";
import { Experiment } from "../src/eval/experiment.js";
import { finishedResult, readEvaluation } from "../src/eval/results.js";
import { evaluationAfter, leftOvers, RunReader, RunWriter, stageFiles } from "../src/runs/index.js";
import { Random } from "../src/world/random.js";
import { temporaryFolder } from "./support/folders.js";
import { Recording, statesAfterCuts, writeState, type AfterCut } from "./support/power-loss.js";
import { comparable, runContents } from "./support/run-contents.js";
import { shallowModel, tinyConfig } from "./support/tiny.js";

const folder = temporaryFolder();
const random = new Random(11);
const store = join(folder, "store");
const LOCK = /^run\.lock/;
const model = { path: shallowModel(), threads: 1 };

const configOf = (layer: object = {}): Config =>
  tinyConfig(
    {
      model,
      rewards: ["brightness"],
      eval: { enabled: true, every: 1, imagesPerPrompt: 1 },
      record: { images: 2, phases: "always" },
    },
    layer,
  );

async function run(at: string, config: Config, mark: (text: string) => void = () => undefined): Promise<void> {
  const experiment = await Experiment.open(at, config);
  try {
    await experiment.run({ stage: ({ stage }) => mark(`stage ${stage}`), evaluation: (name) => mark(`eval ${name}`) });
  } finally {
    experiment.dispose();
  }
}

/** Records a run in the folder `runs/<name>`, from a copy of another one if there is one. */
async function record(name: string, config: Config, from?: string): Promise<Recording> {
  const root = join(folder, name);
  mkdirSync(root);
  if (from !== undefined) cpSync(from, join(root, "run"), { recursive: true });
  const recording = new Recording(root);
  await recording.during(() => run(join(root, "run"), config, (text) => recording.mark(text)), LOCK);
  return recording;
}

/** Undisturbed runs by their config. */
const wholes = new Map<string, Promise<string>>();
function wholeOf(config: Config): Promise<string> {
  const key = JSON.stringify(config);
  const at = join(folder, `whole-${wholes.size}`);
  const whole = wholes.get(key) ?? run(at, config).then(() => at);
  wholes.set(key, whole);
  return whole;
}

const truths = new Map<string, Record<string, string>>();
/** What an undisturbed run comes to. */
async function truthOf(config: Config): Promise<Record<string, string>> {
  const at = await wholeOf(config);
  const truth = truths.get(at) ?? runContents(at);
  truths.set(at, truth);
  return truth;
}

const known = new WeakMap<Buffer, string>();
function comparableOnce(file: string, contents: Buffer): string {
  const text = known.get(contents) ?? comparable(file, contents);
  known.set(contents, text);
  return text;
}

/** Checks that a state is one from which the run goes on right. @returns how far it is */
async function check({ state, marks, where }: AfterCut, at: string, begun: readonly Config[]): Promise<string> {
  rmSync(at, { recursive: true, force: true });
  writeState(state, at, store);
  const path = join(at, "run");
  const promised = marks.filter((mark) => mark.startsWith("stage")).length;
  if (!RunReader.exists(path)) {
    assert.equal(promised, 0, `${where}: the run is gone`);
    RunWriter.expectNew(path);
    return "new";
  }
  const reader = new RunReader(path);
  const config = configOfFolder(reader);
  const own = begun.find(({ stages, seed }) => stages === config.stages && seed === config.seed);
  assert.deepEqual(config, own, where);
  // The evaluation after the former end gets its new name before the run gets longer.
  const truth = { ...(await truthOf(begun.at(-1)!)), ...(await truthOf(config)) };
  const isRight = (file: string): void => {
    const inRun = file.slice(path.length + 1);
    const contents = state.get(`run/${inRun}`);
    assert.ok(contents !== undefined, `${where}: ${inRun} is gone`);
    assert.equal(comparableOnce(inRun, contents), truth[inRun], `${where}: ${inRun}`);
  };
  const finished = reader.finishedStages();
  const last = finished.at(-1) ?? -1;
  const before = begun.length > 1 && begun[0]!.seed === begun[1]!.seed ? begun[0]!.stages : 0;
  assert.ok(last + 1 >= before + promised, `${where}: a finished stage is forgotten`);
  expectState(reader, last);
  for (const stage of finished) {
    for (const file of ["lora", "optimizer", "samples", "updates", "metrics"] as const)
      isRight(reader.stagePath(stage, file));
    for (const { image } of reader.samples(stage))
      if (image !== undefined) isRight(join(path, "stages", `000${stage}`, image));
  }
  for (const name of reader.evaluationNames()) {
    assert.ok(readEvaluation(reader, name) !== undefined);
    isRight(join(path, "eval", `${name}.json`));
  }
  for (const mark of marks.filter((one) => one.startsWith("eval"))) {
    assert.ok(reader.evaluation(mark.slice("eval ".length)) !== undefined, `${where}: ${mark} is forgotten`);
  }
  // What is kept of the next stage is whole, and its own.
  const next = last + 1;
  if (reader.has(next, "sampled") && reader.has(next, "sampledTensors")) {
    const kept = keptOf.get(`${config.seed}/${next}`)!;
    for (const file of ["sampled", "sampledTensors"] as const) {
      assert.ok(readFileSync(reader.stagePath(next, file)).equals(kept[file]!), `${where}: ${file}`);
    }
    const scores = reader.scores(next)?.parts["brightness"] ?? [];
    assert.deepEqual(scores, kept.scores.slice(0, scores.length), `${where}: scores`);
    reader.partial(next);
  }
  const plan: FolderPlan = {
    folder: path,
    config,
    lists: { training: config.prompts.train as string[], metadata: new Map() },
    programReward: false,
    mode: "resume",
    changes: [],
    notes: [],
    lock: undefined,
  };
  if (finishedResult(plan) !== undefined) {
    isRight(join(path, "reward.png"));
    // It may just have been written again.
    assert.equal(runContents(path)["metrics.jsonl"], truth["metrics.jsonl"], where);
    return "finished";
  }
  resumeFolder(plan);
  assert.deepEqual(leftOvers(path), [], where);
  return `stage ${next}`;
}

/** What was kept of each stage while it was not finished, by seed and stage. */
const keptOf = new Map<string, { sampled?: Buffer; sampledTensors?: Buffer; scores: readonly number[] }>();

/** Finds in a recording what was kept. Whatever was written under a name is the same each time, scores aside. */
function findKept({ operations }: Recording, seed: number): void {
  let stage = 0;
  const contents = new Map<number, Buffer>();
  for (const operation of operations) {
    if (operation.type === "contents") contents.set(operation.file, operation.contents);
    if (operation.type !== "names") continue;
    for (const [name, node] of operation.names) {
      const bytes = node === undefined ? undefined : contents.get(node);
      if (bytes === undefined) continue;
      const key = `${seed}/${stage}`;
      const kept = keptOf.get(key) ?? { scores: [] };
      if (name === stageFiles.sampled) keptOf.set(key, { ...kept, sampled: bytes });
      if (name === stageFiles.sampledTensors) keptOf.set(key, { ...kept, sampledTensors: bytes });
      if (name === stageFiles.scores) {
        const { parts } = JSON.parse(bytes.toString()) as { parts: { brightness: number[] } };
        keptOf.set(key, { ...kept, scores: parts.brightness });
      }
      if (name === stageFiles.metrics) stage++;
    }
  }
}

/** Checks all states, and takes a few of them to the end. */
async function checkAll(recording: Recording, begun: readonly Config[]): Promise<Set<string>> {
  const config = begun.at(-1)!;
  const at = join(folder, "state");
  const met = new Map<string, AfterCut>();
  let count = 0;
  for (const cut of statesAfterCuts(recording, random)) {
    const kind = await check(cut, at, begun);
    count++;
    // The last of each kind is the one that has most to lose.
    met.set(kind, cut);
  }
  assert.ok(count > 100, `${count} states`);
  for (const [kind, { state, where }] of met) {
    if (kind === "finished") continue;
    rmSync(at, { recursive: true, force: true });
    writeState(state, at, store);
    await run(join(at, "run"), config);
    const [contents, truth] = [runContents(join(at, "run")), await truthOf(config)];
    for (const [file, content] of Object.entries(truth))
      assert.equal(contents[file], content, `${kind}, ${where}: ${file}`);
  }
  return new Set(met.keys());
}

describe("after a power cut", () => {
  it("a run goes on from its last finished stage, to the same bits", async () => {
    const config = configOf();
    const recording = await record("fresh", config);
    findKept(recording, config.seed);
    const met = await checkAll(recording, [config]);
    assert.deepEqual([...met].sort(), ["finished", "new", "stage 0", "stage 1", "stage 2"]);
  });

  it("a run that is made longer is the longer or the shorter one", async () => {
    const [short, long] = [
      configOf({ stages: 1, interval: { first: 2, last: 2 } }),
      configOf({ interval: { first: 2, last: 2 } }),
    ];
    const recording = await record("grown", long, await wholeOf(short));
    keptOf.clear();
    findKept(recording, long.seed);
    await checkAll(recording, [short, long]);
    assert.ok(existsSync(join(folder, "grown/run/eval", `${evaluationAfter(1)}.json`)));
  });

  it("a run that begins again with another config has nothing of the former one", async () => {
    const [former, other] = [configOf({ stages: 1 }), configOf({ stages: 1, seed: 7 })];
    keptOf.clear();
    const whole = await record("former", former);
    findKept(whole, former.seed);
    // The former one was killed when its first stage was scored.
    const scored = [...statesAfterCuts(whole, random)].filter(({ state }) => state.has("run/stages/0000/scores.json"));
    const begun = join(folder, "begun");
    writeState(scored.at(0)!.state, begun, store);
    const recording = await record("again", other, join(begun, "run"));
    findKept(recording, other.seed);
    await checkAll(recording, [former, other]);
  });
});
