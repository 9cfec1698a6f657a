/** The timesteps that the samples of a stage are trained at: those of recorded transitions, or an objective's choice. */
import { InputError } from "../../base/errors.js";
import { permutation, uniform } from "../../base/philox.js";
import { intervalOf, type Config } from "../config/schema.js";
import { timestepChoiceOf, type TimestepChoice } from "../objectives/index.js";
import { addressedRoot, edgeOf, type Edge, type TrainKey, type TrainSet } from "../records.js";
import { imagesOf } from "../rollout/tree.js";

/** A timestep that a sample is trained at. */
export interface TrainedTimestep {
  readonly timestep: number;
  /** Index among the timesteps that can be drawn: for transitions, among the recorded ones. */
  readonly step: number;
  /** Its number among all that the sample could have had so far in this stage; the address of its noise. */
  readonly draw: number;
}

/**
 * The timesteps of an item in an epoch, in random order. They depend on their arguments alone.
 *
 * @param of.index of the item in its stage
 * @param of.first key of the item's first sample
 */
export type DrawTimesteps = (of: {
  readonly index: number;
  readonly first: TrainKey;
  readonly epoch: number;
}) => TrainedTimestep[];

type TimestepConfig = Pick<Config, "branch" | "interval" | "objective" | "seed" | "train">;

/** @param trajectory all timesteps of the sampler, descending */
export function timestepsOfStage(
  trainSet: Pick<TrainSet, "stage" | "timesteps">,
  { branch, interval: { skipLast }, objective, seed, train }: TimestepConfig,
  trajectory: readonly number[],
): DrawTimesteps {
  const choice = timestepChoiceOf(objective);
  const interval = trainSet.timesteps;
  const isWithin = isWithinInterval(choice, branch);
  const steps = isWithin ? interval : trajectory.slice(0, trajectory.length - skipLast);
  const partOf = (key: TrainKey): Pick<Edge, "from" | "to"> =>
    isWithin ? edgeOf(key, steps.length) : { from: 0, to: steps.length };
  const address = { seed, stage: trainSet.stage, stream: "timesteps" } as const;

  if (choice?.from === "any") {
    const count = timestepsPerSample(choice, steps.length, train);
    return ({ first, epoch }) => {
      const { from, to } = partOf(first);
      const [least, most] = boundsOf(choice, steps.slice(from, to), {
        endsAtImage: to === steps.length && skipLast === 0,
      });
      if (least > most) return [];
      const root = addressedRoot(first, trainSet);
      return Array.from({ length: count }, (_, step) => {
        // Parts of one trajectory have numbers of their own.
        const draw = (epoch + from * train.epochs) * count + step;
        // One in each of `count` equal parts.
        const share = (step + uniform({ ...address, root, branch: first.branch + 1, step: draw })) / count;
        const timestep = isWhole(steps)
          ? least + Math.floor(share * (most - least + 1))
          : least + share * (most - least);
        return { timestep, step, draw };
      });
    };
  }

  const known = inRange(choice, steps);
  return ({ index, first, epoch }) => {
    const { from, to } = partOf(first);
    const part = new Set(steps.slice(from, to));
    const own = known.flatMap((timestep, step) => (part.has(timestep) ? [step] : []));
    const order = permutation(own.length, { ...address, root: index, branch: 0, step: epoch });
    const count = timestepsPerSample(choice, own.length, train);
    return [...order.subarray(0, count)].map((place) => {
      const step = own[place]!;
      return { timestep: known[step]!, step, draw: epoch * known.length + step };
    });
  };
}

/** Whether the timesteps are those of the trained interval, or of the whole trajectory. */
export function isWithinInterval(choice: TimestepChoice | undefined, branch: Config["branch"]): boolean {
  if (choice === undefined) return true;
  return choice.part === null ? imagesOf(branch) > 1 : choice.part === "interval";
}

/** Timesteps of each sample in an epoch, of `available` ones. */
export function timestepsPerSample(
  choice: TimestepChoice | undefined,
  available: number,
  { timestepFraction }: Pick<Config["train"], "timestepFraction">,
): number {
  const count = choice?.count ?? Math.max(1, Math.round(timestepFraction * available));
  return choice?.from === "any" ? count : Math.min(count, available);
}

/**
 * Checks that an objective's choice leaves timesteps in the first stage, whose interval is the shortest.
 *
 * @throws InputError
 */
export function checkTimesteps(
  config: TimestepConfig & Pick<Config, "sample" | "stages">,
  trajectory: readonly number[],
): void {
  const { branch, interval, objective } = config;
  const choice = timestepChoiceOf(objective);
  if (choice === undefined) return;
  const from = isWithinInterval(choice, branch) ? trajectory.length - intervalOf(config).first : 0;
  const steps = trajectory.slice(from, trajectory.length - interval.skipLast);
  const [least, most] = boundsOf(choice, steps, { endsAtImage: interval.skipLast === 0 });
  if (choice.from === "any" ? least <= most : inRange(choice, steps).length > 0) return;
  const part = from === 0 ? "trajectory" : "first stage's interval";
  throw new InputError(
    `Expected a timestep of the ${part}, ${steps.at(-1)} to ${steps[0]}, within objective.minTimestep and objective.maxTimestep but received ${choice.min ?? "none"} and ${choice.max ?? "none"}`,
  );
}

const inRange = (choice: TimestepChoice | undefined, steps: readonly number[]): readonly number[] =>
  steps.filter((t) => t >= (choice?.min ?? -Infinity) && t <= (choice?.max ?? Infinity));

/** A model of whole timesteps knows no others. */
const isWhole = (steps: readonly number[]): boolean => steps.every(Number.isInteger);

/** Least and largest timestep. Where later steps are left out, so are the noise levels that they pass. */
function boundsOf(
  { min, max }: TimestepChoice,
  steps: readonly number[],
  { endsAtImage }: { endsAtImage: boolean },
): [least: number, most: number] {
  const end = endsAtImage ? 0 : steps.at(-1)!;
  const [least, most] = [Math.max(min ?? 0, end), Math.min(max ?? Infinity, steps[0]!)];
  return isWhole(steps) ? [Math.ceil(least), Math.floor(most)] : [least, most];
}
