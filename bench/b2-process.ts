/** The command line of any checkout, as a process that computes with one thread. */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { dirname, join, resolve } from "node:path";

/** A config in the form of 0.1.0, which later versions read too. */
export type FormerConfig = Readonly<Record<string, number | Readonly<Record<string, unknown>>>>;

/** Layers of configs on top of each other. */
export function layered(...layers: readonly FormerConfig[]): FormerConfig {
  const merged: Record<string, FormerConfig[string]> = {};
  for (const [section, value] of layers.flatMap((layer) => Object.entries(layer))) {
    const below = merged[section];
    merged[section] = typeof value === "object" && typeof below === "object" ? { ...below, ...value } : value;
  }
  return merged;
}

/** One thread, and no run that evaluates, draws or keeps pictures: nothing but the training. */
export const trainingOnly: FormerConfig = {
  model: { threads: 1 },
  eval: { enabled: false, sheet: 0 },
  record: { images: 0 },
};

/** B2-DiffuRL on the embedded model, the same in every version, whose presets are not. */
export const embedded: FormerConfig = {
  prompts: {
    train: ["a cat riding a bike", "a panda playing chess", "blue banana", "red lemon", "star on house"],
    order: "in-turn",
  },
  sample: { steps: 10, guidanceScale: 1, rootsPerStage: 36, batchSize: 144, decodeBatchSize: 144 },
  branch: { count: 4 },
  interval: { first: 9, last: 10, skipLast: 4 },
  select: { positiveThreshold: 0.3, negativeThreshold: -0.3 },
  train: { learningRate: 3e-3, epochs: 1, clipRange: 3e-4, samplesPerUpdate: 20, microBatch: 128 },
};

/** How a process ended, and what it took. */
export interface Ended {
  readonly code: number | null;
  /** Processor time of all its threads until it began to exit; NaN for a process that a signal ended. */
  readonly processorSeconds: number;
  readonly errors: string;
}

export interface B2Options {
  /** Where it runs; models whose paths are relative are then those of the checkout. */
  readonly cwd: string;
  /** Sends one SIGINT as soon as standard error matches this. */
  readonly interruptAt?: RegExp;
  /** Is given the process as it starts. */
  readonly onStart?: (child: ChildProcess) => void;
  /** The exit code to expect. */
  readonly code?: number;
}

const clockMark = "processor seconds ";
/**
 * Runs before the program. A process says itself what it took, since its parent is not told, and its `performance.now`
 * is the processor time of its threads: the seconds in its stage.json are then its own on a machine with other work.
 */
const clock = `
  const now = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1e3; };
  Object.defineProperty(performance, "now", { value: now });
  process.on("exit", () => process.stderr.write("\\n${clockMark}" + now() / 1e3 + "\\n"));`;

/**
 * Runs `node <b2> ...args` to its end.
 *
 * @param b2 a checkout's bin/b2.js
 * @throws Error with what it wrote to standard error, for another exit code than the expected one
 */
export async function runB2(
  b2: string,
  args: readonly string[],
  { cwd, interruptAt, onStart, code: expected = 0 }: B2Options,
): Promise<Ended> {
  const child = spawn(process.execPath, [resolve(b2), ...args], {
    cwd,
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      ...process.env,
      B2_THREADS: "1",
      HF_HUB_OFFLINE: "1",
      NODE_OPTIONS: `${process.env["NODE_OPTIONS"] ?? ""} --import=data:text/javascript,${encodeURIComponent(clock)}`,
    },
  });
  onStart?.(child);
  let errors = "";
  let interrupted = false;
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
    if (interruptAt === undefined || interrupted || !interruptAt.test(errors)) return;
    interrupted = child.kill("SIGINT");
  });
  const code = await new Promise<number | null>((done, fail) => {
    child.on("error", fail).on("close", done);
  });
  if (code !== expected) {
    throw new Error(`Expected exit code ${expected} of b2 ${args.join(" ")} but received ${code}:\n${errors}`);
  }
  const at = errors.lastIndexOf(clockMark);
  return { code, processorSeconds: at < 0 ? NaN : parseFloat(errors.slice(at + clockMark.length)), errors };
}

/** Writes a config beside the run's folder. @returns what `b2` needs to know of it */
export function configArguments(folder: string, config: FormerConfig): string[] {
  mkdirSync(dirname(folder), { recursive: true });
  const file = `${folder}.json`;
  writeFileSync(file, JSON.stringify(config, null, 2));
  return ["--config", file];
}

/** What the bits and the seconds of a checkout hang on besides its code. */
export function describeB2(b2: string): string {
  const build = join(dirname(resolve(b2)), "../build/current.json");
  const installed = (): string => (JSON.parse(readFileSync(build, "utf8")) as { version: string }).version;
  const libtorch = process.env["LIBTORCH"] || installed();
  return `node ${process.version}, libtorch ${libtorch}, ${cpus()[0]?.model ?? "unknown CPU"}`;
}

/** stage.json of a stage. @throws an error when the stage is not finished */
export function stageMetrics(folder: string, stage: number): Readonly<Record<string, number>> {
  const file = join(folder, "stages", String(stage).padStart(4, "0"), "stage.json");
  return JSON.parse(readFileSync(file, "utf8")) as Record<string, number>;
}
