/**
 * Writes a run folder. A stage's files replace those of an earlier attempt; none of its files is ever appended to.
 */
import { accessSync, constants, existsSync, readdirSync, readFileSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import {
  jsonLines,
  makeFolder,
  syncFolder,
  syncFolders,
  writeFileAtomic,
  writeJson,
  writeJsonLines,
} from "../base/files.js";
import { isAbandoned, tryLock, type Lock } from "../base/lock.js";
import {
  evaluationAfter,
  layout,
  RUN_FORMAT,
  RUN_VERSION,
  SET_ASIDE,
  stageFiles,
  stageOfEvaluation,
  type MadeBy,
  type RunFile,
} from "./layout.js";
import type {
  IntervalMeasurement,
  PartialStage,
  SampleLine,
  StageMetrics,
  StageScores,
  UpdateMetrics,
} from "./metrics.js";
import { RunError, RunReader } from "./reader.js";

type StageFile = keyof typeof stageFiles;

/** What a run begins with. */
export interface NewRun {
  readonly config: unknown;
  readonly reward: NonNullable<RunFile["reward"]>;
  readonly madeBy?: MadeBy;
}

/** How many of the latest stages keep these files. */
export interface Kept {
  readonly trajectories: number;
  readonly optimizers: number;
}

/** A run folder, open for writing. */
export class RunWriter {
  /** The same folder, open for reading. */
  readonly reader: RunReader;
  readonly folder: string;
  readonly #lock: Lock | undefined;

  /**
   * @param lock of the folder, which `close` releases
   * @throws RunError when the folder is not a run
   */
  constructor(folder: string, lock?: Lock) {
    this.reader = new RunReader(folder);
    this.folder = folder;
    this.#lock = lock;
  }

  /**
   * Keeps other processes from working on a run. The folder must exist.
   *
   * @throws RunError when one does, naming it, and when the folder cannot be written to
   */
  static lock(folder: string): Lock {
    let taken: ReturnType<typeof tryLock>;
    try {
      taken = tryLock(layout.lock(folder));
    } catch (error) {
      throw new RunError(`Expected a folder to write the run to but received ${folder} (${(error as Error).message})`);
    }
    if ("release" in taken) return taken;
    throw new RunError(
      `Expected a run that no other process works on but received ${folder}, on which process ${taken.pid} of the host ` +
        `${taken.host} works; wait for its end, or stop it`,
    );
  }

  /** Whether the folder was left by a process of this system that is gone. */
  static isAbandoned(folder: string): boolean {
    return isAbandoned(layout.lock(folder));
  }

  /** Lets other processes work on the run. */
  close(): void {
    this.#lock?.release();
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
    // A crash before run.json is written leaves only these; what people have said outlives a run that begins again.
    const known = ["config.json", SET_ASIDE, basename(layout.annotations(folder))];
    if (present.some((name) => !known.includes(name) && !name.startsWith("run.lock") && !isLeftOver(name))) {
      throw new RunError(`Expected an empty or new folder for the run but received ${folder}, which holds other files`);
    }
  }

  /**
   * Begins a run.
   *
   * @throws RunError when the folder already holds a run, or other files
   */
  static create(folder: string, { config, reward, madeBy }: NewRun, lock?: Lock): RunWriter {
    RunWriter.expectNew(folder);
    makeFolder(folder);
    writeJson(layout.config(folder), config);
    syncFolder(folder);
    const run: RunFile = {
      format: RUN_FORMAT,
      version: RUN_VERSION,
      createdAt: new Date().toISOString(),
      reward,
      ...(madeBy && { madeBy: [madeBy] }),
    };
    writeJson(layout.run(folder), run);
    syncFolder(folder);
    return new RunWriter(folder, lock);
  }

  /** Begins a run without finished stages anew, with another config. Deletes what its earlier attempts wrote. */
  static recreate(folder: string, begun: NewRun, lock?: Lock): RunWriter {
    const { reader } = new RunWriter(folder);
    if (reader.finishedStages().length > 0) throw new RunError(`Expected a run without a finished stage in ${folder}`);
    const images = readdirSync(folder).filter((name) => /^(before|before-after|reward)\.png$/.test(name));
    // What people have judged stays: their judgements belong to images, and the same may come again.
    const left = [
      layout.stages,
      layout.evaluations,
      layout.intervals,
      layout.metrics,
      layout.warnings,
      layout.annotationQueue,
    ].map((of) => of(folder));
    for (const name of [...left, ...images.map((image) => join(folder, image))]) {
      rmSync(name, { recursive: true, force: true });
    }
    // run.json last: until then the folder is this run, whatever is cut off, the power included.
    syncFolder(folder);
    rmSync(layout.run(folder), { force: true });
    syncFolder(folder);
    return RunWriter.create(folder, begun, lock);
  }

  /**
   * Removes what a process that was killed has left: half-written files and folders, and what a finished stage no longer
   * keeps. Writes metrics.jsonl again if it does not say what the stages say.
   */
  mend(keep: Kept): void {
    for (const left of leftOvers(this.folder)) rmSync(left, { recursive: true, force: true });
    const last = this.reader.finishedStages().at(-1);
    if (last === undefined) return;
    this.#discard(last, keep);
    const file = layout.metrics(this.folder);
    const lines = jsonLines(this.reader.metrics());
    if (!existsSync(file) || readFileSync(file, "utf8") !== lines) writeFileAtomic(file, lines);
  }

  /** The path of a stage's file, whether or not it exists. */
  stagePath(stage: number, file: StageFile): string {
    return this.reader.stagePath(stage, file);
  }

  /** Replaces the config when a run is resumed with other values. */
  writeConfig(config: unknown): void {
    writeJson(layout.config(this.folder), config);
  }

  /** Notes that something else computes from a stage on. */
  writeMaker(maker: MadeBy): void {
    const { madeBy = [], ...run } = this.reader.run;
    const before = madeBy.filter(({ fromStage }) => fromStage < maker.fromStage);
    writeJson(layout.run(this.folder), { ...run, madeBy: [...before, maker] });
  }

  /**
   * Deletes file `from` and all later files of the stage, then creates the stage folder.
   *
   * @throws RunError when a later stage is finished, which would then have come from other weights
   */
  beginStage(stage: number, from: StageFile = "sampledTensors"): void {
    this.reader.expectNoneAfter(stage);
    const files = Object.keys(stageFiles) as StageFile[];
    // Last to first, so that the stage counts as unfinished before any other file of it is deleted.
    for (const file of files.slice(files.indexOf(from)).reverse()) {
      rmSync(this.stagePath(stage, file), { recursive: true, force: true });
    }
    const folder = layout.stage(this.folder, stage);
    makeFolder(folder);
    // What is deleted here must not come back, after a power cut, beside what is written now.
    syncFolder(folder);
  }

  writeSampled(stage: number, sampled: unknown): void {
    writeJson(this.stagePath(stage, "sampled"), sampled);
  }

  /** What the rewards have said so far. */
  writeScores(stage: number, scores: StageScores): void {
    writeJson(this.stagePath(stage, "scores"), scores);
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

  /**
   * Marks a stage as finished, and deletes files that only the latest stages keep.
   *
   * @throws RunError when another process has taken the run over
   */
  finishStage(stage: number, metrics: StageMetrics, keep: Kept): void {
    if (this.#lock?.isHeld() === false) {
      throw new RunError(`Expected to work on ${this.folder} alone, but another process has taken the run over`);
    }
    // Whatever is cut off, the power included: where the mark is, all it stands for is.
    const folder = layout.stage(this.folder, stage);
    // It shows the stages before. A run without it is not done.
    this.removePicture("reward.png");
    for (const of of [folder, layout.intervals(this.folder), layout.model(this.folder)]) syncFolders(of);
    syncFolder(dirname(folder));
    syncFolder(this.folder);
    writeJson(this.stagePath(stage, "metrics"), metrics);
    syncFolder(folder);
    writeJsonLines(layout.metrics(this.folder), this.reader.metrics());
    this.#discard(stage, keep);
  }

  /** Deletes what the latest stage needed while it was unfinished, and what only the latest stages keep. */
  #discard(stage: number, keep: Kept): void {
    this.remove(stage, "sampledTensors");
    this.remove(stage, "sampled");
    this.remove(stage, "scores");
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
    syncFolder(layout.intervals(this.folder));
  }

  writeEvaluation(name: string, table: unknown): void {
    writeJson(layout.evaluation(this.folder, name), table);
    syncFolder(layout.evaluations(this.folder));
  }

  /** What was deleted or renamed before this stays so, whatever is cut off: what depends on it is written after it. */
  settle(): void {
    syncFolders(layout.evaluations(this.folder));
    syncFolder(this.folder);
  }

  /** Deletes the evaluations that can be made again: those whose weights are there. */
  removeEvaluations(): void {
    for (const name of this.reader.evaluationNames()) {
      const stage = stageOfEvaluation(name);
      const canRepeat =
        stage === undefined || this.reader.has(stage - 1, "lora") || this.reader.has(stage - 1, "denoiser");
      if (canRepeat) rmSync(layout.evaluation(this.folder, name), { force: true });
    }
  }

  /** What was measured after the last stage becomes what was measured after so many: the run goes on. */
  keepEvaluationAfter(stages: number): void {
    const after = layout.evaluation(this.folder, "after");
    if (existsSync(after)) renameSync(after, layout.evaluation(this.folder, evaluationAfter(stages)));
  }

  /** Deletes an image of the whole run. */
  removePicture(name: string): void {
    rmSync(this.picturePath(name), { force: true });
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

/** What was half written when a process was killed: files of writeFileAtomic, and the folder of a whole model. */
export function leftOvers(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.name === SET_ASIDE) return [];
    if (isLeftOver(entry.name)) return [path];
    return entry.isDirectory() ? leftOvers(path) : [];
  });
}

/** Whether a name is one of those that are half written. */
const isLeftOver = (name: string): boolean => /\.\d+\.tmp$/.test(name);

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
