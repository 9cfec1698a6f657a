/**
 * Reads a run folder without libtorch, for dashboards, scripts and resuming.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isJsonObject, readJsonLines, readJsonObject } from "../base/files.js";
import { show } from "../base/show.js";
// Imports the format directly, because the index of that folder would load libtorch.
import { readHeader, readRange, type SafetensorsDType } from "../safetensors/header.js";
import { checkedInterval, checkedMetrics, checkedPartial, RunError } from "./check-json.js";
import { formerStageFiles, layout, RUN_FORMAT, RUN_VERSION, stageFiles, type RunFile } from "./layout.js";
import type {
  IntervalMeasurement,
  PartialStage,
  SampleLine,
  StageMetrics,
  StageScores,
  UpdateMetrics,
} from "./metrics.js";

export { RunError } from "./check-json.js";

/** A tensor of the run folder as plain data; bytes are in row-major order. */
export interface StoredTensor {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A run folder, open for reading. Nothing is cached: every call reads from disk. */
export class RunReader {
  readonly folder: string;
  readonly run: RunFile;

  /** @throws RunError when the folder is not a run, or a run of a later version */
  constructor(folder: string) {
    this.folder = folder;
    const file = layout.run(folder);
    if (!existsSync(file)) throw new RunError(`Expected a run folder (with run.json) but received ${folder}`);
    const run = readRunObject(file) as { [key in keyof RunFile]?: unknown };
    if (run.format !== RUN_FORMAT)
      throw new RunError(`Expected format "${RUN_FORMAT}" in ${file} but received ${show(run.format)}`);
    if (typeof run.version !== "number" || run.version > RUN_VERSION)
      throw new RunError(`Expected a version up to ${RUN_VERSION} in ${file} but received ${show(run.version)}`);
    this.run = run as unknown as RunFile;
  }

  /** Whether a folder holds a run. */
  static exists(folder: string): boolean {
    return existsSync(layout.run(folder));
  }

  /** The resolved config, as saved. */
  config(): Record<string, unknown> {
    return readRunObject(layout.config(this.folder));
  }

  /** Finished stages in order. Some may be missing in between, where their folders were deleted. */
  finishedStages(): number[] {
    const folder = layout.stages(this.folder);
    return namesIn(folder)
      .filter((name) => /^\d{4,}$/.test(name) && existsSync(join(folder, name, stageFiles.metrics)))
      .map(Number)
      .sort((a, b) => a - b);
  }

  /** The stage after the last finished one: where the run goes on. */
  nextStage(): number {
    return (this.finishedStages().at(-1) ?? -1) + 1;
  }

  /** @throws RunError when a stage after this one is finished, so that this one cannot be done again */
  expectNoneAfter(stage: number): void {
    const later = this.finishedStages().filter((finished) => finished > stage);
    if (later.length === 0) return;
    const folders = later.map((one) => layout.stage(this.folder, one));
    throw new RunError(
      `Expected the last stage of ${this.folder}, or a new one, but received stage ${stage}, after which ` +
        `${later.length} ${later.length === 1 ? "is" : "are"} finished; to do it again, delete ${folders[0]}` +
        `${later.length === 1 ? "" : ` to ${folders.at(-1)}`} first`,
    );
  }

  /** The path of a stage's file, whether or not it exists. */
  stagePath(stage: number, file: keyof typeof stageFiles): string {
    const path = join(layout.stage(this.folder, stage), stageFiles[file]);
    const former = formerStageFiles[file];
    if (former === undefined || existsSync(path)) return path;
    const old = join(layout.stage(this.folder, stage), former);
    return existsSync(old) ? old : path;
  }

  /** Whether a stage has this file. */
  has(stage: number, file: keyof typeof stageFiles): boolean {
    return existsSync(this.stagePath(stage, file));
  }

  /** The metrics of a finished stage. @throws RunError when the file is missing or damaged */
  stageMetrics(stage: number): StageMetrics {
    const file = this.stagePath(stage, "metrics");
    return checkedMetrics(readRunObject(file), file);
  }

  /** The metrics of all finished stages. */
  metrics(): StageMetrics[] {
    return this.finishedStages().map((stage) => this.stageMetrics(stage));
  }

  /** What a stage's phases have taken so far, if they run in processes of their own. */
  partial(stage: number): Partial<PartialStage> {
    if (!this.has(stage, "partial")) return {};
    const file = this.stagePath(stage, "partial");
    return checkedPartial(readRunObject(file), file);
  }

  /** What is kept of a stage's samples besides their tensors. */
  sampled(stage: number): object {
    return readRunObject(this.stagePath(stage, "sampled"));
  }

  /** What the rewards have said of the first images of an unfinished stage; undefined if nothing is kept. */
  scores(stage: number): StageScores | undefined {
    if (!this.has(stage, "scores")) return undefined;
    const file = this.stagePath(stage, "scores");
    const { parts, rewardSeconds } = readRunObject(file);
    if (isScores(parts) && isJsonObject(rewardSeconds)) {
      return { parts, rewardSeconds: rewardSeconds as Record<string, number> };
    }
    throw new RunError(
      `Expected the scores of the stage's first images in ${file}; delete it to have them scored again`,
    );
  }

  /** One line per image of a stage. @throws RunError when the file is missing or damaged */
  samples(stage: number): SampleLine[] {
    const file = this.stagePath(stage, "samples");
    const lines = readJsonLines(file, RunError);
    if (lines.length === 0) throw new RunError(`Expected a line for every sample in ${file} but received none`);
    return lines.map((line, i) => {
      const { root, branch, prompt, reward, advantage } = line as { [key in keyof SampleLine]?: unknown };
      if (typeof prompt !== "string" || [root, branch, reward, advantage].some((value) => typeof value !== "number")) {
        throw new RunError(`Expected root, branch, prompt, reward and advantage in line ${i + 1} of ${file}`);
      }
      return line as unknown as SampleLine;
    });
  }

  /** One line per optimiser step of a stage. @throws RunError when the file is missing or damaged */
  updates(stage: number): UpdateMetrics[] {
    return readJsonLines(this.stagePath(stage, "updates"), RunError) as unknown as UpdateMetrics[];
  }

  /** What was measured before a stage; undefined if nothing was. @throws RunError when the file is damaged */
  interval(stage: number): IntervalMeasurement | undefined {
    const file = layout.interval(this.folder, stage);
    return existsSync(file) ? checkedInterval(readRunObject(file), file) : undefined;
  }

  /** An evaluation of `b2 run` ("before", "after", ...); undefined if there is none. */
  evaluation(name: string): unknown {
    const file = layout.evaluation(this.folder, name);
    return existsSync(file) ? readRunObject(file) : undefined;
  }

  /** The names of all evaluations, in no particular order. */
  evaluationNames(): string[] {
    const folder = layout.evaluations(this.folder);
    return namesIn(folder)
      .filter((file) => file.endsWith(".json"))
      .map((file) => file.slice(0, -".json".length));
  }

  /**
   * One tensor of a stage's safetensors file.
   *
   * @throws SafetensorsError for a damaged file; RunError for a key that does not exist
   */
  tensor(stage: number, file: "selected" | "sampledTensors" | "lora" | "optimizer", key: string): StoredTensor {
    const header = readHeader(this.stagePath(stage, file));
    const entry = header.tensors.get(key);
    if (entry === undefined) {
      throw new RunError(
        `Expected one of ${[...header.tensors.keys()].join(", ")} in ${header.file} but received ${key}`,
      );
    }
    const bytes = new Uint8Array(entry.end - entry.begin);
    readRange(header, entry, (part, at) => bytes.set(part, at));
    return { dtype: entry.dtype, shape: entry.shape, bytes };
  }
}

/** Whether a value is equally many numbers for each label. */
function isScores(value: unknown): value is Record<string, number[]> {
  if (!isJsonObject(value)) return false;
  const lists = Object.values(value);
  const [first] = lists;
  return lists.every(
    (list) =>
      Array.isArray(list) &&
      list.length === (first as unknown[]).length &&
      list.every((score) => typeof score === "number"),
  );
}

/** The names in a folder of the run; none if there is no such folder. @throws RunError for a file in its place */
function namesIn(folder: string): string[] {
  try {
    return existsSync(folder) ? readdirSync(folder) : [];
  } catch (error) {
    throw new RunError(`Expected a folder at ${folder} but received a file (${(error as Error).message})`);
  }
}

const readRunObject = (file: string): Record<string, unknown> => readJsonObject(file, RunError);
