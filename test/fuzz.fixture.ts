/**
 * Feeds damaged inputs to readers, in a process of its own, which fuzz.test.ts starts.
 *
 *     node fuzz.fixture.js <folder> <seed> <first input>:<readers, each as name=count, in JSON>
 *
 * Before each input, a line with its reader and number goes to file descriptor 3, so that whoever starts this knows where
 * it ended. Results are lines of JSON on stdout.
 */
import assert from "node:assert/strict";
import { readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../src/base/errors.js";
import { visible } from "../src/base/show.js";
import { repository } from "./support/folders.js";
import { Random } from "./support/mutate.js";
import { OpenedPaths } from "./support/opened-paths.js";
import { readerGroups } from "./support/readers/index.js";
import type { ReaderUnderTest, ReadyReader } from "./support/readers/reader.js";

/** What is to be done: which inputs of a reader. */
export interface Task {
  readonly reader: string;
  readonly from: number;
  readonly to: number;
}

/** What came out: of one input that failed, or of all of a reader. */
export type FuzzResult =
  | { readonly reader: string; readonly input: number; readonly problem: string }
  | { readonly reader: string; readonly accepted: number; readonly refused: number; readonly seconds: number };

/** More processor time than this for one input is a hang. */
const MOST_SECONDS = 5;
/** Memory in kilobytes by which an input may raise the peak. */
const MOST_KILOBYTES = 700_000;
const LONGEST_MESSAGE = 100_000;

const [root, seed, tasks] = [process.argv[2]!, Number(process.argv[3]), JSON.parse(process.argv[4]!) as Task[]];
/** The only folder that readers may write to. */
const folder = join(root, "inside");

/** Reads one damaged input. @returns whether it was accepted @throws for anything that must not be */
async function feed(ready: ReadyReader, random: Random): Promise<boolean> {
  const { files, read, names = [], refusals = [], opens = "its folder" } = ready;
  const name = random.pick(Object.keys(files));
  const file = join(folder, name);
  const sound = readFileSync(file);
  const [cpu, { maxRSS: peak }] = [process.cpuUsage(), process.resourceUsage()];
  writeFileSync(file, files[name]!(sound, random));
  opened.clear();
  try {
    await read(name);
    return true;
  } catch (error) {
    if (refusals.some((Refusal) => error instanceof Refusal)) return false;
    if (!(error instanceof InputError)) throw error;
    checkMessage(
      error.message,
      names && [file, ...names.map((other) => (other.startsWith("/") ? other : join(folder, other)))],
    );
    return false;
  } finally {
    const { user, system } = process.cpuUsage(cpu);
    const raised = process.resourceUsage().maxRSS - peak;
    const strange = opened.outside([folder, repository, "/proc", "/sys"]);
    writeFileSync(file, sound);
    if (opens === "its folder") assert.deepEqual(strange, [], "something outside was opened");
    assert((user + system) / 1e6 < MOST_SECONDS, `it took ${(user + system) / 1e6} s of processor time`);
    assert(raised < MOST_KILOBYTES, `it took ${raised} kB of memory`);
    assert.equal(({} as Record<string, unknown>)["polluted"], undefined, "Object.prototype was changed");
  }
}

function checkMessage(message: string, names: readonly string[] | null): void {
  assert.equal(message, visible(message), "the message has control characters");
  assert(message.length < LONGEST_MESSAGE, `the message has ${message.length} characters`);
  if (names === null) return;
  assert(
    names.some((name) => message.includes(visible(name))),
    `the message does not name the file: ${message}`,
  );
}

const textOf = (error: unknown): string => (error instanceof Error ? (error.stack ?? error.message) : String(error));

const opened = new OpenedPaths();

const print = (result: FuzzResult): void => void writeSync(1, `${JSON.stringify(result)}\n`);

async function run(reader: ReaderUnderTest, { from, to }: Task): Promise<void> {
  const { name } = reader;
  for (const left of readdirSync(folder)) rmSync(join(folder, left), { recursive: true });
  const ready = await reader.prepare(folder);
  for (const file of Object.keys(ready.files)) await ready.read(file); // the sound files, or what follows says nothing
  const start = process.cpuUsage();
  let accepted = 0;
  for (let input = from; input < to; input++) {
    writeSync(3, `${JSON.stringify({ reader: name, input })}\n`);
    try {
      if (await feed(ready, new Random(seed + input))) accepted++;
    } catch (error) {
      print({ reader: name, input, problem: textOf(error) });
    }
  }
  await ready.close?.();
  const { user, system } = process.cpuUsage(start);
  print({ reader: name, accepted, refused: to - from - accepted, seconds: (user + system) / 1e6 });
}

const readers = Object.values(readerGroups).flat();
for (const task of tasks)
  await run(
    readers.find(({ name }) => name === task.reader)!,
    task,
  );
