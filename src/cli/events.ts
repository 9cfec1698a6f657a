/**
 * The events of `--json`: one JSON object a line on stdout, for programs that follow the work. docs/cli.md describes them.
 * Fields may be added; none is renamed or removed.
 */
import type { Evaluation, EvaluationRow } from "../eval/measures.js";
import type { StageMetrics } from "../runs/metrics.js";

/** Something that a program may want to know; printed with its `time` (ISO 8601). */
export type Event =
  /** The first event, once the options and the config are fine. */
  | {
      readonly type: "started";
      readonly command: string;
      readonly version: string;
      /** What the command works on: its folder, stages, model and the like. */
      readonly [detail: string]: unknown;
    }
  /** How far a piece of work is: at its begin, at most once a second, and at its end. */
  | {
      readonly type: "progress";
      readonly task: string;
      /** The stage that it belongs to; null for evaluations and the like. */
      readonly stage: number | null;
      readonly done: number;
      readonly total: number;
      readonly unit: string;
    }
  /** A stage of a training is finished. Stages are numbered from 0. */
  | { readonly type: "stage"; readonly stage: number; readonly stages: number; readonly metrics: StageMetrics }
  /** An evaluation, measured now or read from the run's folder. */
  | {
      readonly type: "evaluation";
      readonly name: string;
      /** After how many stages; null for weights that no run of this process trained. */
      readonly stages: number | null;
      readonly rows: readonly Omit<EvaluationRow, "perPrompt">[];
    }
  | { readonly type: "warning"; readonly kind: string; readonly text: string; readonly stages?: number }
  /** A run of a comparison began or ended. */
  | {
      readonly type: "run";
      readonly setting: string;
      readonly seed: number;
      readonly folder: string;
      readonly state: string;
    }
  /** The last event of a command that did its work. */
  | {
      readonly type: "finished";
      readonly seconds: number;
      /** What was written, besides run folders. */
      readonly files: readonly string[];
      /** What the command found, where it found something. */
      readonly [detail: string]: unknown;
    }
  /** The last event of every other command. */
  | { readonly type: "error"; readonly exitCode: number; readonly message: string };

/** Prints an event. */
export function printEvent(event: Event): void {
  const { type, ...fields } = event;
  // JSON escapes the control characters that move a cursor, but a line is one event for every reader of lines.
  process.stdout.write(`${JSON.stringify({ type, time: new Date().toISOString(), ...fields })}\n`);
}

/** The rows of an evaluation without the measures of every prompt, which its file has. */
export const rowsOf = ({ rows }: Evaluation): Omit<EvaluationRow, "perPrompt">[] =>
  rows.map((row) => ({ ...row, perPrompt: undefined })); // JSON leaves it out
