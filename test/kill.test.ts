/**
 * Kills `b2 run` at random instants of every phase, over and over, and compares what it comes to with an undisturbed run.
 *
 * An instant is a gap between two events of `--json`, and a random part of the time that this gap took in the undisturbed
 * run. KILLS=500 npm test -- kill kills more often than 50 times.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, it } from "node:test";
import { RunReader } from "../src/runs/index.js";
import { Random } from "../src/world/random.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { runContents } from "./support/run-contents.js";
import { shallowModel, tinyValues } from "./support/tiny.js";

const folder = temporaryFolder();
const model = { ...tinyValues.model, path: shallowModel(), threads: 1 };
const KILLS = Number(process.env["KILLS"] ?? 50);
const random = new Random(20_260_101);

/** Scores red and length of prompt, and writes down each image that it is asked about. */
const reward = (asked: string): string => `
import { appendFileSync } from "node:fs";
export default async (images, prompts, { keys }) => {
  appendFileSync(${JSON.stringify(asked)}, keys.map(({ group, index }) => group + "/" + index + "\\n").join(""));
  return images.select(1, 0).mean({ dim: [1, 2] }).toArray().map((red, i) => red + prompts[i].length / 100);
};
`;

const always = { record: { images: 2, phases: "always" } };
const evaluated = { enabled: true, every: 1, sheet: 1, clip: null, truth: "none", imagesPerPrompt: 1 };
const variants: Readonly<Record<string, object>> = {
  "whose phases are written": always,
  "with evaluations, contact sheets and a moving average": {
    eval: evaluated,
    train: { ...tinyValues.train, ema: 0.9 },
  },
  "with a measured interval and all weights": {
    ...always,
    interval: { mode: "measured", every: 1, roots: 2, branches: 2, splits: 2 },
    train: { ...tinyValues.train, parameters: "full" },
  },
};

type Phase = "start-up" | "measuring" | "sampling" | "scoring" | "selecting" | "updating" | "saving" | "evaluating";

/** What comes after a piece of work, until the next event. */
const AFTER: Readonly<Record<string, Phase>> = { sampling: "scoring", scoring: "selecting", training: "saving" };
/** What a piece of work is; contact sheets are a part of evaluating. */
const WITHIN: Readonly<Record<string, Phase>> = {
  probing: "measuring",
  sampling: "sampling",
  scoring: "scoring",
  training: "updating",
};

interface Event {
  /** What it says, without numbers that depend on time. */
  readonly name: string;
  /** What happens after it. */
  readonly phase: Phase;
  /** Milliseconds since the process began. */
  readonly at: number;
}

function eventOf(line: string, began: number): Event {
  const at = performance.now() - began;
  const { type, task = "", stage, name = "", done, total } = JSON.parse(line) as Record<string, string | undefined>;
  const isBegin = type === "progress" && Number(done) === 0;
  const isEnd = type === "progress" && done === total;
  const phase = type === "started" ? "start-up" : isBegin ? WITHIN[task] : isEnd ? AFTER[task] : undefined;
  const step = isBegin ? "begins" : isEnd ? "ends" : "goes on";
  return { name: [type, name, task, stage, step].join(" "), phase: phase ?? "evaluating", at };
}

/** When to kill: so many milliseconds after an event, or after the start. */
interface Instant {
  readonly phase: Phase;
  readonly after: string | undefined;
  readonly delay: number;
}

interface Outcome {
  readonly killed: boolean;
  readonly code: number | null;
  readonly stderr: string;
  readonly events: readonly Event[];
}

function run(path: string, config: string, instant?: Instant): Promise<Outcome> {
  const child = spawn(process.execPath, [join(repository, "bin/b2.js"), "run", path, "--config", config, "--json"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  const began = performance.now();
  const events: Event[] = [];
  let stderr = "";
  child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
  const kill = (): void => void setTimeout(() => child.kill("SIGKILL"), instant!.delay);
  if (instant !== undefined && instant.after === undefined) kill();
  createInterface(child.stdout).on("line", (line) => {
    const event = eventOf(line, began);
    if (instant?.after === event.name && !events.some(({ name }) => name === event.name)) kill();
    events.push(event);
  });
  return new Promise((resolve) => {
    child.on("close", (code, signal) => resolve({ killed: signal === "SIGKILL", code, stderr, events }));
  });
}

/** A gap between two events of an undisturbed run, in its order. */
interface Gap {
  readonly phase: Phase;
  readonly after: string | undefined;
  readonly length: number;
  readonly order: number;
}

function gapsOf(events: readonly Event[]): Gap[] {
  const starts: (Event | undefined)[] = [undefined, ...events];
  return starts.flatMap((event, order): Gap[] => {
    const next = events[order];
    if (next === undefined) return [];
    return [{ phase: event?.phase ?? "start-up", after: event?.name, length: next.at - (event?.at ?? 0), order }];
  });
}

/** So many instants in the order of a run; each phase has its share of them. */
function instantsOf(gaps: readonly Gap[], count: number): Instant[] {
  const phases = random.shuffled([...new Set(gaps.map(({ phase }) => phase))]);
  const chosen = Array.from({ length: count }, (_, i) => {
    const phase = phases[i % phases.length]!;
    return random.pick(gaps.filter((gap) => gap.phase === phase));
  });
  return chosen
    .sort((a, b) => a.order - b.order)
    .map(({ phase, after, length }) => ({ phase, after, delay: random.uniform() * length }));
}

describe("a run that is killed over and over", () => {
  const names = Object.keys(variants);
  const counts = new Map<Phase, number>();
  let kills = 0;

  for (const [number, name] of names.entries()) {
    it(name, async () => {
      const path = (what: string): string => join(folder, `${number}-${what}`);
      const [asked, config] = [path("asked.txt"), path("config.json")];
      const askedImages = (): string[] => readFileSync(asked, "utf8").trim().split("\n");
      writeFileSync(path("reward.mjs"), reward(asked));
      const values = {
        ...tinyValues,
        model,
        sample: { ...tinyValues.sample, decodeBatchSize: 2 },
        rewards: [{ name: "module", path: path("reward.mjs"), label: "mine" }],
        ...variants[name],
      };
      writeFileSync(config, JSON.stringify(values));

      const undisturbed = await run(path("whole"), config);
      assert.equal(undisturbed.code, 0, undisturbed.stderr);
      const whole = runContents(path("whole"));
      const wholeAsked = askedImages();
      writeFileSync(asked, "");

      const share = Math.round((KILLS * (number + 1)) / names.length) - Math.round((KILLS * number) / names.length);
      const instants = instantsOf(gapsOf(undisturbed.events), share);
      let [attempt, killsHere] = [0, 0];
      const compare = (): void => {
        const at = path(`killed-${attempt}`);
        const contents = runContents(at);
        assert.deepEqual(Object.keys(contents), Object.keys(whole), "the same files, and no others");
        for (const [file, content] of Object.entries(whole)) assert.equal(contents[file], content, file);
        // What is written as it comes is not asked again, the batch aside that was being scored.
        const lost = askedImages().length - wholeAsked.length;
        if (number === 0) assert.ok(lost <= killsHere * 2, `${lost} images`);
        writeFileSync(asked, "");
        killsHere = 0;
        attempt++;
      };
      for (let i = 0; i < instants.length;) {
        const at = path(`killed-${attempt}`);
        const finished = RunReader.exists(at) ? new RunReader(at).finishedStages() : [];
        const { killed, code, stderr } = await run(at, config, instants[i]);
        if (killed) {
          if (RunReader.exists(at)) {
            const now = new RunReader(at).finishedStages();
            for (const stage of finished) assert.ok(now.includes(stage), `stage ${stage} stays finished`);
          }
          counts.set(instants[i]!.phase, (counts.get(instants[i]!.phase) ?? 0) + 1);
          kills++;
          killsHere++;
          i++;
        } else {
          // It was finished before its instant came: the next one is another run's.
          assert.equal(code, 0, stderr);
          compare();
        }
      }
      const last = await run(path(`killed-${attempt}`), config);
      assert.equal(last.code, 0, last.stderr);
      compare();
      assert.deepEqual(
        readdirSync(folder, { recursive: true, encoding: "utf8" }).filter((file) => /tmp$|lock/.test(file)),
        [],
      );
    });
  }

  it("was killed in every phase", () => {
    assert.equal(kills, KILLS);
    for (const phase of ["start-up", "sampling", "scoring", "selecting", "updating", "saving", "evaluating"] as const) {
      assert.ok((counts.get(phase) ?? 0) >= 3, `${phase}: ${counts.get(phase)}`);
    }
  });
});
