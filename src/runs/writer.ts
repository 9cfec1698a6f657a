/**
 * Writes a run folder. A stage's files replace those of an earlier attempt; nothing is ever appended to.
 */
import { existsSync, mkdirSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { writeJson, writeJsonLines } from "../base/files.js";
import { layout, type Metrics, runFormat, runVersion, type RunFile, type SampleLine, stageFiles } from "./layout.js";
import { RunError, RunReader } from "./reader.js";

type StageFile = keyof typeof stageFiles;

/** A run folder, open for writing; it reads as well. */
export class RunWriter extends RunReader {
  /**
   * Begins a run.
   *
   * @throws RunError when the folder already holds a run, or other files
   */
  static create(folder: string, config: unknown): RunWriter {
    if (RunReader.exists(folder)) throw new RunError(`Expected a folder without a run but received ${folder}`);
    let present: string[];
    try {
      present = existsSync(folder) ? readdirSync(folder) : [];
      mkdirSync(folder, { recursive: true });
    } catch (error) {
      throw new RunError(`Expected a folder to write the run to but received ${folder} (${(error as Error).message})`);
    }
    // config.json alone is what a crash before run.json leaves behind.
    if (present.some((name) => name !== "config.json" && !name.endsWith(".tmp"))) {
      throw new RunError(`Expected an empty or new folder for the run but received ${folder}, which holds other files`);
    }
    writeJson(layout.config(folder), config);
    const run: RunFile = { format: runFormat, version: runVersion, createdAt: new Date().toISOString() };
    writeJson(layout.run(folder), run);
    return new RunWriter(folder);
  }

  /** Removes what a stage's file and all that come after it left behind, and makes the stage's folder. */
  beginStage(stage: number, from: StageFile = "sampledTensors"): void {
    const files = Object.keys(stageFiles) as StageFile[];
    // Last to first: a stage is unfinished before anything else of it goes.
    for (const file of files.slice(files.indexOf(from)).reverse()) {
      rmSync(this.stagePath(stage, file), { recursive: true, force: true });
    }
    mkdirSync(layout.stage(this.folder, stage), { recursive: true });
  }

  writeSampled(stage: number, sampled: unknown): void {
    writeJson(this.stagePath(stage, "sampled"), sampled);
  }

  writePartial(stage: number, seconds: Metrics): void {
    writeJson(this.stagePath(stage, "partial"), seconds);
  }

  writeSamples(stage: number, samples: readonly SampleLine[]): void {
    writeJsonLines(this.stagePath(stage, "samples"), samples);
  }

  writeUpdates(stage: number, updates: readonly Metrics[]): void {
    writeJsonLines(this.stagePath(stage, "updates"), updates);
  }

  /** Marks a stage as finished, and drops what only the latest stages keep. */
  finishStage(stage: number, metrics: Metrics, keep: { trajectories: number; optimizers: number }): void {
    writeJson(this.stagePath(stage, "metrics"), metrics);
    writeJsonLines(layout.metrics(this.folder), this.metrics());
    this.remove(stage, "sampledTensors");
    this.remove(stage, "sampled");
    this.remove(stage, "partial");
    for (const old of this.finishedStages()) {
      if (old <= stage - keep.trajectories) this.remove(old, "selected");
      if (old <= stage - keep.optimizers) {
        this.remove(old, "optimizer");
        this.remove(old, "unet");
      }
    }
  }

  writeEvaluation(name: string, table: unknown): void {
    writeJson(layout.evaluation(this.folder, name), table);
  }

  remove(stage: number, file: StageFile): void {
    rmSync(this.stagePath(stage, file), { recursive: true, force: true });
  }

  /** Where the whole model goes; what is there of an earlier attempt goes away. */
  replaceModel(): string {
    rmSync(layout.model(this.folder), { recursive: true, force: true });
    return layout.model(this.folder);
  }

  /** Where a picture of the whole run goes. */
  picturePath(name: string): string {
    return join(this.folder, name);
  }

  /** Where a picture of a stage goes; the name is what samples.jsonl says. */
  imagePath(stage: number, name: string): string {
    return join(layout.stage(this.folder, stage), name);
  }
}
