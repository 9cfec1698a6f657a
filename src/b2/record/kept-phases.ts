/**
 * Writes what a stage has sampled and scored before the stage is finished, so that a process that is killed loses at most
 * one phase of it: its samples, and the scores of its first images.
 *
 * Both take time to write. By default they are written where that is a small part of the time that they took to make.
 */
import {
  addCost,
  costBetween,
  NO_COST,
  type Cost,
  type PartialStage,
  type RunWriter,
  type StageScores,
} from "../../runs/index.js";
import type { BranchBatch } from "../records.js";
import { saveBranches } from "./storage.js";

/** The config's `record.phases`. */
export type KeepPhases = "auto" | "always" | "never";

export interface KeptPhasesOptions {
  /** "auto": where writing is cheap beside what it saves. */
  readonly mode: KeepPhases;
  /** What the process has spent so far. */
  readonly spent: () => Cost;
}

/** Bytes a second, and seconds for each file, of a slow disk. */
const BYTES_PER_SECOND = 100e6;
const SECONDS_PER_FILE = 0.01;
/** At most this part of the time that something took is spent on writing it. */
const SHARE = 1 / 20;
/** Of a score in scores.json. */
const BYTES_PER_SCORE = 20;

/** Whether files of so many bytes are cheap to write beside the seconds that their contents took. */
export const isCheap = (bytes: number, files: number, seconds: number): boolean =>
  bytes / BYTES_PER_SECOND + files * SECONDS_PER_FILE <= SHARE * seconds;

/** The samples of one stage while they are scored. */
export class KeptPhases {
  readonly #writer: RunWriter;
  readonly #branches: BranchBatch;
  readonly #before: PartialStage;
  readonly #options: KeptPhasesOptions;
  readonly #start: Cost;
  readonly #began = performance.now();
  /** Seconds of work on the stage that have been written. */
  #written: number;

  /** @param before what the stage has taken until now, by earlier attempts at scoring too */
  constructor(writer: RunWriter, branches: BranchBatch, before: PartialStage, options: KeptPhasesOptions) {
    this.#writer = writer;
    this.#branches = branches;
    this.#before = before;
    this.#options = options;
    this.#start = options.spent();
    this.#written = this.#hasSamples ? this.#seconds : 0;
  }

  /** Writes what is there, if the mode says so. @param scores of the first images; undefined before there are any */
  offer(scores?: StageScores): void {
    if (this.#isDue(scores)) this.write(scores);
  }

  /** Writes what is there. */
  write(scores?: StageScores): void {
    const { stage } = this.#branches;
    if (!this.#hasSamples) saveBranches(this.#writer, this.#branches);
    const costs = { ...this.#before.costs, score: addCost(this.#before.costs.score ?? NO_COST, this.#spent) };
    // Cut off between the two, images count as asked for that will be asked for again, which is so.
    this.#writer.writePartial(stage, { ...this.#before, score: this.#before.score + this.#scoring, costs });
    if (scores !== undefined) this.#writer.writeScores(stage, scores);
    this.#written = this.#seconds;
  }

  #isDue(scores: StageScores | undefined): boolean {
    const { mode } = this.#options;
    if (mode !== "auto") return mode === "always";
    const lists = Object.values(scores?.parts ?? {});
    const scored = lists.reduce((sum, list) => sum + list.length, 0) * BYTES_PER_SCORE;
    const [bytes, files] = this.#hasSamples ? [scored, 2] : [scored + bytesOf(this.#branches), 4];
    return isCheap(bytes, files, this.#seconds - this.#written);
  }

  get #hasSamples(): boolean {
    return this.#writer.reader.has(this.#branches.stage, "sampled");
  }

  get #scoring(): number {
    return (performance.now() - this.#began) / 1000;
  }

  /** That the stage has taken so far. */
  get #seconds(): number {
    return this.#before.sample + this.#before.score + this.#scoring;
  }

  get #spent(): Cost {
    return costBetween(this.#start, this.#options.spent());
  }
}

/** float32 latents and log-probs. */
const bytesOf = ({ latents, logProbs }: BranchBatch): number =>
  4 *
  [latents, ...(logProbs ? [logProbs] : [])].reduce(
    (sum, { shape }) => sum + shape.reduce((n, size) => n * size, 1),
    0,
  );
