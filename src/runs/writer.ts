/**
 * Writes a run folder. A stage's files replace those of an earlier attempt; no file is ever appended to.
 */
import { accessSync, constants, existsSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { makeFolder, writeJson, writeJsonLines } from "../base/files.js";
import { layout, RUN_FORMAT, RUN_VERSION, stageFiles, type RunFile } from "./layout.js";
import type { IntervalMeasurement, PartialStage, SampleLine, StageMetrics, UpdateMetrics } from "./metrics.js";
import { RunError, RunReader } from "./reader.js";

type StageFile = keyof typeof stageFiles;

/** What a run begins with. */
export interface NewRun {
  readonly config: unknown;
  readonly reward: NonNullable<RunFile["reward"]>;
}

/** A run folder, open for writing. */
export class RunWriter {
  /** The same folder, open for reading. */
  readonly reader: RunReader;
  readonly folder: string;

  /** @throws RunError when the folder is not a run */
  constructor(folder: string) {
    this.reader = new RunReader(folder);
    this.folder = folder;
  }

  /**
   * Checks that a run can begin in a folder. Writes nothing.
   *
   * @throws RunError when it already holds a run or other files, is a file, or cannot be written to
   */
  static expectNew(folder: string): void {
    if (RunReader.exists(folder)) throw new RunError(`Expected a folder without a run but received ${folder}`);
    let present: string[];
    try {
      present = existsSync(folder) ? readdirSync(folder) : [];
      accessSync(nearestFolder(folder), constants.W_OK);
    } catch (error) {
      throw new RunError(`Expected a folder to write the run to but received ${folder} (${(error as Error).message})`);
    }
    // A crash before run.json is written leaves only config.json.
    if (present.some((name) => name !== "config.json" && !name.endsWith(".tmp"))) {
      throw new RunError(`Expected an empty or new folder for the run but received ${folder}, which holds other files`);
    }
  }

  /**
   * Begins a run.
   *
   * @throws RunError when the folder already holds a run, or other files
   */
  static create(folder: string, { config, reward }: NewRun): RunWriter {
    RunWriter.expectNew(folder);
    makeFolder(folder);
    writeJson(layout.config(folder), config);
    const run: RunFile = { format: RUN_FORMAT, version: RUN_VERSION, createdAt: new Date().toISOString(), reward };
    writeJson(layout.run(folder), run);
    return new RunWriter(folder);
  }

  /** Begins a run without finished stages anew, with another config. Deletes what its earlier attempts wrote. */
  static recreate(folder: string, begun: NewRun): RunWriter {
    const { reader } = new RunWriter(folder);
    if (reader.finishedStages().length > 0) throw new RunError(`Expected a run without a finished stage in ${folder}`);
    const images = readdirSync(folder).filter((name) => /^(before|before-after|reward)\.png$/.test(name));
    const left = [layout.stages, layout.evaluations, layout.intervals, layout.metrics, layout.warnings].map((of) =>
      of(folder),
    );
    // run.json last: until then the folder is this run, whatever is cut off.
    for (const name of [...left, ...images.map((image) => join(folder, image)), layout.run(folder)]) {
      rmSync(name, { recursive: true, force: true });
    }
    return RunWriter.create(folder, begun);
  }

  /** The path of a stage's file, whether or not it exists. */
  stagePath(stage: number, file: StageFile): string {
    return this.reader.stagePath(stage, file);
  }

  /** Replaces the config when a run is resumed with other values. */
  writeConfig(config: unknown): void {
    writeJson(layout.config(this.folder), config);
  }

  /** Deletes file `from` and all later files of the stage, then creates the stage folder. */
  beginStage(stage: number, from: StageFile = "sampledTensors"): void {
    const files = Object.keys(stageFiles) as StageFile[];
    // Last to first, so that the stage counts as unfinished before any other file of it is deleted.
    for (const file of files.slice(files.indexOf(from)).reverse()) {
      rmSync(this.stagePath(stage, file), { recursive: true, force: true });
    }
    makeFolder(layout.stage(this.folder, stage));
  }

  writeSampled(stage: number, sampled: unknown): void {
    writeJson(this.stagePath(stage, "sampled"), sampled);
  }

  writePartial(stage: number, partial: PartialStage): void {
    writeJson(this.stagePath(stage, "partial"), partial);
  }

  writeSamples(stage: number, samples: readonly SampleLine[]): void {
    writeJsonLines(this.stagePath(stage, "samples"), samples);
  }

  writeUpdates(stage: number, updates: readonly UpdateMetrics[]): void {
    writeJsonLines(this.stagePath(stage, "updates"), updates);
  }

  /** Marks a stage as finished, and deletes files that only the latest stages keep. */
  finishStage(stage: number, metrics: StageMetrics, keep: { trajectories: number; optimizers: number }): void {
    writeJson(this.stagePath(stage, "metrics"), metrics);
    writeJsonLines(layout.metrics(this.folder), this.reader.metrics());
    this.remove(stage, "sampledTensors");
    this.remove(stage, "sampled");
    this.remove(stage, "partial");
    for (const old of this.reader.finishedStages()) {
      if (old <= stage - keep.trajectories) this.remove(old, "selected");
      if (old <= stage - keep.optimizers) {
        this.remove(old, "optimizer");
        this.remove(old, "sampler");
        if (this.reader.has(old, "denoiser")) this.remove(old, "ema");
        this.remove(old, "denoiser");
      }
    }
  }

  writeInterval(measurement: IntervalMeasurement): void {
    writeJson(layout.interval(this.folder, measurement.stage), measurement);
  }

  writeEvaluation(name: string, table: unknown): void {
    writeJson(layout.evaluation(this.folder, name), table);
  }

  writeWarnings(warnings: readonly object[]): void {
    writeJsonLines(layout.warnings(this.folder), warnings);
  }

  remove(stage: number, file: StageFile): void {
    rmSync(this.stagePath(stage, file), { recursive: true, force: true });
  }

  /** The folder for the whole model. Deletes the model of an earlier attempt. */
  replaceModel(): string {
    rmSync(layout.model(this.folder), { recursive: true, force: true });
    return layout.model(this.folder);
  }

  /** The path of an image of the whole run. */
  picturePath(name: string): string {
    return join(this.folder, name);
  }

  /** The path of an image of a stage; the name is the one in samples.jsonl. */
  imagePath(stage: number, name: string): string {
    return join(layout.stage(this.folder, stage), name);
  }
}

/** The folder itself, or its nearest existing parent. */
function nearestFolder(folder: string): string {
  let at = folder;
  while (!existsSync(at)) {
    const above = dirname(at);
    if (above === at) break;
    at = above;
  }
  if (!statSync(at).isDirectory()) throw new Error(`${at} is a file`);
  return at;
}
