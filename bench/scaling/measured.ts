/** What the workers of a training have measured, phase by phase: compute, waiting and collectives. */
import { phases, type Phase, type TimedStage, type TrainingTimes } from "./job.js";
import type { Operation, OperationName } from "./recording-group.js";

/** Of a phase, in seconds, the mean of all workers where it does not say otherwise. */
export interface PhaseParts {
  /** Outside of collectives. */
  readonly compute: number;
  /** In collectives that another worker has not begun yet. */
  readonly waiting: number;
  /** In collectives that all have begun. */
  readonly collectives: number;
  /** Processor time of the worker that needed most: of use on a machine with other work. */
  readonly processor: number;
}

export type StageParts = Readonly<Record<Phase, PhaseParts>>;

/** Collectives of a stage. */
export interface Sent {
  readonly phase: Phase;
  readonly name: OperationName;
  readonly calls: number;
  /** Of this worker's tensors, or of its JSON. */
  readonly bytes: number;
}

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length;

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const [low, high] = [Math.floor((sorted.length - 1) / 2), Math.ceil((sorted.length - 1) / 2)];
  return (sorted[low]! + sorted[high]!) / 2;
}

/** @param stage the same stage, as each worker saw it */
function partsOf(stage: readonly TimedStage[]): StageParts {
  const of = (phase: Phase): PhaseParts => {
    const seen = stage.map(({ phases }) => phases[phase]);
    const last = seen[0]!.operations.map((_, i) => Math.max(...seen.map(({ operations }) => operations[i]!.start)));
    const waits = seen.map(({ operations }) => sum(operations, ({ start }, i) => last[i]! - start));
    const spent = seen.map(({ operations }) => sum(operations, ({ end }, i) => end - last[i]!));
    const all = seen.map(({ start, end }) => end - start);
    return {
      compute: mean(all.map((each, rank) => each - waits[rank]! - spent[rank]!)) / 1000,
      waiting: mean(waits) / 1000,
      collectives: mean(spent) / 1000,
      processor: Math.max(...seen.map(({ processor }) => processor)),
    };
  };
  return Object.fromEntries(phases.map((phase) => [phase, of(phase)])) as Record<Phase, PhaseParts>;
}

const sum = (operations: readonly Operation[], of: (operation: Operation, i: number) => number): number =>
  operations.reduce((total, operation, i) => total + of(operation, i), 0);

/** Of each stage of a training. @param times of its workers, by rank */
export const stagesOf = (times: readonly TrainingTimes[]): StageParts[] =>
  times[0]!.stages.map((_, i) => partsOf(times.map(({ stages }) => stages[i]!)));

/** The medians of many stages, part by part. */
export function medianParts(stages: readonly StageParts[]): StageParts {
  const of = (phase: Phase, part: keyof PhaseParts): number => median(stages.map((stage) => stage[phase][part]));
  const partsOf = (phase: Phase): PhaseParts => ({
    compute: of(phase, "compute"),
    waiting: of(phase, "waiting"),
    collectives: of(phase, "collectives"),
    processor: of(phase, "processor"),
  });
  return Object.fromEntries(phases.map((phase) => [phase, partsOf(phase)])) as Record<Phase, PhaseParts>;
}

/** Seconds of a whole stage, or of some parts of all its phases. */
export const totalOf = (
  stage: StageParts,
  parts: readonly (keyof PhaseParts)[] = ["compute", "waiting", "collectives"],
): number => phases.reduce((all, phase) => all + parts.reduce((some, part) => some + stage[phase][part], 0), 0);

/** What a worker has sent in a stage, by phase and collective. */
export function sentIn(stage: TimedStage): Sent[] {
  return phases.flatMap((phase) => {
    const { operations } = stage.phases[phase];
    const names = [...new Set(operations.map(({ name }) => name))];
    return names.map((name) => {
      const own = operations.filter((operation) => operation.name === name);
      return { phase, name, calls: own.length, bytes: sum(own, ({ bytes }) => bytes) };
    });
  });
}
