/**
 * Damaged inputs by the thousand for every reader: what it makes of them is a value that holds what its reader promises,
 * or an InputError that names the file. No crash, no hang, no memory without bound, nothing read or written outside.
 *
 * FUZZ_SEED chooses other inputs, FUZZ_COUNT how many (20,000), FUZZ_READER one reader.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import type { FuzzResult, Task } from "./fuzz.fixture.js";
import { temporaryFolder } from "./support/folders.js";
import { readerGroups } from "./support/readers/index.js";

const SEED = Number(process.env["FUZZ_SEED"] ?? 1);
const COUNT = Number(process.env["FUZZ_COUNT"] ?? 20_000);
const READER = process.env["FUZZ_READER"];

/** An input that says nothing for so long has hung, or ended a native call that does not return. */
const PATIENCE_MS = 180_000;
/** Failures after which a group is left. */
const MOST_FAILURES = 10;
/** Address space in kilobytes: what maps without bound fails. */
const ADDRESS_SPACE = 24_000_000;

const fixture = fileURLToPath(new URL("fuzz.fixture.js", import.meta.url));
const shares = Object.values(readerGroups)
  .flat()
  .reduce((sum, { share }) => sum + share, 0);

interface Ending {
  readonly results: readonly FuzzResult[];
  /** The input that was being read. */
  readonly last: { readonly reader: string; readonly input: number } | undefined;
  readonly how: string | undefined;
  readonly stderr: string;
}

/** Runs one process over its tasks, to its end or to its death. */
function feed(root: string, tasks: readonly Task[]): Promise<Ending> {
  // Without its trap handler, WebAssembly (undici's parser) takes no more address space than it uses.
  const node = [process.execPath, "--max-old-space-size=1024", "--disable-wasm-trap-handler", fixture];
  const args = [...node, root, String(SEED), JSON.stringify(tasks)];
  const child = spawn("/bin/sh", ["-c", `ulimit -v ${ADDRESS_SPACE}; exec "$@"`, "sh", ...args], {
    stdio: ["ignore", "pipe", "pipe", "pipe"],
  });
  const results: FuzzResult[] = [];
  let last: Ending["last"];
  let stderr = "";
  let hung = false;
  const watch = setTimeout(() => {
    hung = true;
    child.kill("SIGKILL");
  }, PATIENCE_MS);
  createInterface(child.stdout!).on("line", (line) => results.push(JSON.parse(line) as FuzzResult));
  createInterface(child.stdio[3] as Readable).on("line", (line) => {
    last = JSON.parse(line) as NonNullable<Ending["last"]>;
    watch.refresh();
  });
  child.stderr!.on("data", (data: Buffer) => (stderr = (stderr + data.toString()).slice(-4000)));
  return new Promise((done, failed) => {
    child.on("error", failed);
    child.on("close", (code, signal) => {
      clearTimeout(watch);
      const how = hung ? `hung for ${PATIENCE_MS / 1000} s` : code === 0 ? undefined : `ended with ${signal ?? code}`;
      done({ results, last, how, stderr });
    });
  });
}

const again = (reader: string, input: number): string =>
  `FUZZ_SEED=${SEED + input} FUZZ_COUNT=1 FUZZ_READER=${JSON.stringify(reader)} npm test -- fuzz`;

/** Keeps the files of an input that ended the process. */
function keep(root: string): string {
  const kept = mkdtempSync(join(tmpdir(), "b2-fuzz-"));
  cpSync(join(root, "inside"), kept, { recursive: true });
  return kept;
}

for (const [group, readers] of Object.entries(readerGroups)) {
  const chosen = readers.filter(({ name }) => READER === undefined || READER === name);
  if (chosen.length === 0) continue;
  describe(`damaged ${group}`, () => {
    test("end in a value or an InputError", async (t) => {
      const root = temporaryFolder();
      for (const folder of ["inside", "outside"]) mkdirSync(join(root, folder));
      writeFileSync(join(root, "outside", "secret.json"), '["secret"]');
      let tasks: Task[] = chosen.map(({ name, share }) => {
        return { reader: name, from: 0, to: Math.max(1, Math.round((COUNT * share) / shares)) };
      });
      const problems: string[] = [];
      while (tasks.length > 0 && problems.length < MOST_FAILURES) {
        const { results, last, how, stderr } = await feed(root, tasks);
        for (const result of results) {
          if ("problem" in result) problems.push(`${result.problem}\n  ${again(result.reader, result.input)}`);
          else {
            const { reader, accepted, refused, seconds } = result;
            t.diagnostic(`${reader}: ${accepted} accepted, ${refused} refused, ${seconds.toFixed(1)} s`);
            const { takesAll = false } = readers.find(({ name }) => name === reader)!;
            const isTold = accepted > 0 && refused > 0 !== takesAll;
            if (accepted + refused >= 100 && !isTold)
              problems.push(`${reader}: ${accepted} accepted, ${refused} refused`);
          }
        }
        if (how === undefined) break;
        if (last === undefined) assert.fail(`the process ${how}\n${stderr}`);
        const { reader, input } = last;
        problems.push(`${reader}: the process ${how}; see ${keep(root)}\n${stderr}\n  ${again(reader, input)}`);
        const at = tasks.findIndex((task) => task.reader === reader);
        tasks = [{ ...tasks[at]!, from: input + 1 }, ...tasks.slice(at + 1)].filter(({ from, to }) => from < to);
      }
      assert.equal(problems.length, 0, `\n${problems.slice(0, MOST_FAILURES).join("\n\n")}`);
    });
  });
}
