// --json and --quiet: what a program that follows a command can rely on (docs/cli.md), parsed from real output.
import assert from "node:assert/strict";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { b2, startB2, warmB2, type Outcome } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";
import { shallowModel, tinyValues } from "./support/tiny.js";

type Event = Readonly<Record<string, unknown>> & { readonly type: string };

const folder = temporaryFolder();
const config = join(folder, "tiny.json");
const rewards = ["brightness"];
const model = { ...tinyValues.model, path: shallowModel() };
writeFileSync(
  config,
  JSON.stringify({ ...tinyValues, model, rewards, eval: { ...tinyValues.eval, enabled: true, every: 1 } }),
);

/** The fields of every event, as docs/cli.md lists them; others may be added. */
const FIELDS: Readonly<Record<string, readonly string[]>> = {
  started: ["command", "version"],
  progress: ["task", "stage", "done", "total", "unit"],
  stage: ["stage", "stages", "metrics"],
  evaluation: ["name", "stages", "rows"],
  warning: ["kind", "text"],
  run: ["setting", "seed", "folder", "state"],
  finished: ["seconds", "files"],
  error: ["exitCode", "message"],
};

/** Every line of stdout is an event with its fields; the first is `started`, the last `finished` or `error`. */
function eventsOf({ stdout }: Outcome): Event[] {
  const events = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Event);
  for (const event of events) {
    assert.ok(Object.hasOwn(FIELDS, event.type), event.type);
    for (const field of FIELDS[event.type]!) assert.ok(Object.hasOwn(event, field), `${event.type}.${field}`);
    assert.ok(!Number.isNaN(Date.parse(String(event["time"]))));
  }
  const ends = events.filter(({ type }) => type === "finished" || type === "error");
  assert.deepEqual(ends, events.slice(-1));
  return events;
}

const ofType = (events: readonly Event[], type: string): Event[] => events.filter((event) => event.type === type);

describe("b2 run --json", () => {
  const run = join(folder, "run");
  let outcome: Outcome;
  let events: Event[];
  before(async () => {
    outcome = await b2("run", run, "--config", config, "--json");
    assert.equal(outcome.code, 0, outcome.stderr);
    events = eventsOf(outcome);
  });

  it("tells of stages and evaluations as the run folder holds them", () => {
    const [first] = events;
    assert.deepEqual([first!.type, first!["command"], first!["folder"], first!["stages"]], ["started", "run", run, 2]);
    const told = ofType(events, "stage");
    assert.deepEqual(
      told.map(({ stage, stages }) => [stage, stages]),
      [
        [0, 2],
        [1, 2],
      ],
    );
    const lines = readFileSync(join(run, "metrics.jsonl"), "utf8").trimEnd().split("\n");
    assert.deepEqual(
      told.map(({ metrics }) => metrics),
      lines.map((line) => JSON.parse(line) as unknown),
    );
    const evaluations = ofType(events, "evaluation");
    assert.deepEqual(
      evaluations.map(({ name, stages }) => [name, stages]),
      [
        ["before", 0],
        ["stage-0001", 1],
        ["after", 2],
      ],
    );
    for (const { name, rows } of evaluations) {
      const kept = JSON.parse(readFileSync(join(run, "eval", `${String(name)}.json`), "utf8")) as { rows: object[] };
      assert.deepEqual(
        rows,
        kept.rows.map((row) => Object.fromEntries(Object.entries(row).filter(([key]) => key !== "perPrompt"))),
      );
    }
    const files = ofType(events, "finished")[0]!["files"] as string[];
    assert.ok(files.length > 0 && files.every((file) => existsSync(file)), String(files));
  });

  it("counts each task up to its whole, with the stage it belongs to", () => {
    const ends = ofType(events, "progress").filter(({ done, total }) => done === total);
    const tasks = ends.map(({ task, stage }) => [task, stage]);
    for (const stage of [0, 1]) {
      for (const task of ["sampling", "scoring", "training"]) {
        assert.ok(
          tasks.some((one) => one[0] === task && one[1] === stage),
          `${task} ${stage}`,
        );
      }
    }
    assert.ok(tasks.some(([task, stage]) => String(task).startsWith("evaluating") && stage === null));
  });

  it("leaves words and tables to stderr", () => {
    assert.match(outcome.stderr, /^stage 0 \(1\/2\) {2}reward /m);
    assert.match(outcome.stderr, /^training +reward \(brightness\)/m);
  });

  it("of a finished run tells its evaluations again", async () => {
    const again = eventsOf(await warmB2("run", run, "--json", "--quiet"));
    assert.deepEqual(ofType(again, "stage"), []);
    assert.deepEqual(
      ofType(again, "evaluation").map(({ name }) => name),
      ["before", "after"],
    );
  });
});

describe("errors with --json", () => {
  const refused = async (code: number, message: RegExp, ...args: string[]): Promise<void> => {
    const outcome = await warmB2(...args);
    assert.equal(outcome.code, code, outcome.stderr);
    const error = eventsOf(outcome).at(-1)!;
    assert.deepEqual([error.type, error["exitCode"]], ["error", code]);
    assert.match(String(error["message"]), message);
    assert.match(outcome.stderr, message);
  };

  it("are events for bad input, for unknown options and for faults", async () => {
    await refused(2, /at least 1 for stages/, "run", "--preset", "demo", "--set", "stages=0", "--json");
    await refused(2, /unknown option '--jsn'/, "run", "--jsn", "--json");
    const faulty = join(folder, "faulty.mjs");
    const library = pathToFileURL(join(repository, "dist/src/index.js")).href;
    writeFileSync(
      faulty,
      `import { registerObjective, z } from ${JSON.stringify(library)};
       const loss = () => { throw new TypeError("no such luck"); };
       registerObjective({ name: "faulty", summary: "Throws", learnsFrom: "transitions", options: z.object({}), loss });`,
    );
    const args = [
      "run",
      join(folder, "faulty"),
      "--config",
      config,
      "--plugin",
      faulty,
      "--set",
      "objective.name=faulty",
    ];
    await refused(1, /no such luck/, ...args, "--set", "eval.enabled=false", "--json");
  });

  it("are an event when Ctrl-C stops the work", async () => {
    const run = join(folder, "stopped");
    const { child, outcome } = startB2("run", run, "--config", config, "--set", "stages=40", "--json");
    child.stdout!.on("data", (data: Buffer) => {
      if (data.toString().includes('"task":"training"') && !child.killed) child.kill("SIGINT");
    });
    after(() => child.kill("SIGKILL"));
    const ended = await outcome;
    assert.equal(ended.code, 130, ended.stderr);
    const error = eventsOf(ended).at(-1)!;
    assert.deepEqual([error.type, error["exitCode"]], ["error", 130]);
  });
});

describe("other commands with --json", () => {
  it("generate tells the files", async () => {
    const out = join(folder, "images");
    const events = eventsOf(await warmB2("generate", "a cat", "a dog", "--config", config, "--out", out, "--json"));
    const files = events.at(-1)!["files"] as string[];
    assert.equal(files.length, 2);
    assert.ok(files.every((file) => existsSync(file)));
  });

  it("eval tells the measures", async () => {
    const events = eventsOf(await warmB2("eval", "--config", config, "--json", "--quiet"));
    const [evaluation] = ofType(events, "evaluation");
    assert.deepEqual([evaluation!["name"], evaluation!["stages"]], ["base", null]);
  });

  it("probe tells what it proposes", async () => {
    const out = join(folder, "probe");
    const args = ["--config", config, "--roots", "3", "--branches", "2", "--splits", "2", "--out", out];
    const last = eventsOf(await warmB2("probe", ...args, "--json")).at(-1)!;
    const report = JSON.parse(readFileSync(join(out, "probe.json"), "utf8")) as { proposal: unknown };
    assert.deepEqual(last["proposal"], report.proposal);
  });

  it("a phase of a stage tells what it did", async () => {
    const last = eventsOf(await warmB2("sample", join(folder, "phases"), "--config", config, "--json")).at(-1)!;
    assert.deepEqual([last["stage"], last["images"]], [0, 6]);
  });

  it("compare tells of its runs", async () => {
    const comparison = join(folder, "comparison");
    const settings = [`a=${config} stages=1 eval.enabled=true`];
    const outcome = await b2("compare", comparison, ...settings, "--seeds", "1", "--jobs", "1", "--json", "--quiet");
    const events = eventsOf(outcome);
    assert.equal(outcome.code, 0, outcome.stderr);
    assert.deepEqual(
      ofType(events, "run").map(({ setting, seed, state }) => [setting, seed, state]),
      [
        ["a", 1, "running"],
        ["a", 1, "finished"],
      ],
    );
    assert.ok((events.at(-1)!["files"] as string[]).every((file) => existsSync(file)));
  });
});

describe("--quiet", () => {
  it("prints nothing when all is well, and errors as always", async () => {
    const fine = await warmB2("run", join(folder, "quiet"), "--config", config, "--set", "stages=1", "--quiet");
    assert.deepEqual(fine, { code: 0, stdout: "", stderr: "" });
    const wrong = await warmB2("run", join(folder, "quiet"), "--config", config, "--set", "stages=0", "--quiet");
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /^b2: .*at least 1 for stages/);
  });

  it("is refused where nothing would be left of the result", async () => {
    const { code, stderr } = await warmB2("eval", "--config", config, "--quiet");
    assert.equal(code, 2);
    assert.match(stderr, /^b2: Expected --out or --json with --quiet/);
  });
});

describe("docs/cli.md", () => {
  it("describes every event with its fields", () => {
    const page = readFileSync(join(repository, "docs/cli.md"), "utf8");
    for (const [type, fields] of Object.entries(FIELDS)) {
      const [line] = page.split("\n").filter((line) => line.startsWith(`| \`${type}\` `));
      assert.ok(line !== undefined, type);
      for (const field of fields) assert.ok(line.includes(`\`${field}\``), `${type}.${field}`);
    }
  });
});
