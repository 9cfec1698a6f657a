/** Where the model of a reward lives, and in which precision: as options, and checked on this machine. */
import { z } from "zod";
import { computeProblem, torchVersion, type Device } from "../torch/index.js";
import { RewardError } from "./error.js";

/** Where a reward's model lives. */
export interface Placement {
  /** null: the run's device. */
  readonly device: Device | null;
  /** Of weights and arithmetic. */
  readonly dtype: "float32" | "bfloat16" | "float16";
  /** Whether it leaves its device for the CPU's memory while nothing is scored. */
  readonly offload: boolean;
}

/** Where a model is loaded to. */
export interface Place {
  readonly device: Device;
  readonly dtype: Placement["dtype"];
}

/** A model that rewards share. */
export interface SharedModel {
  /** Moves all weights, and what is cached. */
  moveTo(device: Device): void;
  dispose(): void;
}

/** The placement of a model of which nobody says otherwise. */
export const USUAL_PLACEMENT: Placement = { device: null, dtype: "float32", offload: false };

const rounding = { affects: "rounding" };
const nothing = { affects: "nothing" };

/** Spread into the options of a reward whose model the context shares. */
export const placementOptions = {
  device: (
    z
      .string()
      .regex(/^(cpu|mps|cuda(:\d+)?)$/, "Expected cpu, mps, cuda or cuda:<index>") as unknown as z.ZodType<Device>
  )
    .nullable()
    .default(null)
    .describe("Where the reward's model computes; null is `model.device`.")
    .meta(rounding),
  dtype: z
    .enum(["float32", "bfloat16", "float16"])
    .default("float32")
    .describe("Number format of the reward's model, weights and arithmetic."),
  offload: z
    .boolean()
    .default(false)
    .describe(
      "Whether the reward's model waits in the CPU's memory while nothing is scored. A model that several rewards share does so if all of them say it.",
    )
    .meta(nothing),
};

/** The placement that options with `placementOptions` describe. */
export const placementOf = ({ device, dtype, offload }: Placement): Placement => ({ device, dtype, offload });

/**
 * Checks that this machine computes there.
 *
 * @param name of the model, for the error
 * @throws RewardError with libtorch's reason
 */
export function checkPlace(name: string, { device, dtype }: Place): void {
  const problem = computeProblem(device, dtype);
  if (problem === undefined) return;
  const reason = problem.message.split("\n", 1)[0]!;
  throw new RewardError(
    `Expected a device and a dtype that libtorch ${torchVersion()} computes with for ${name} but received ${device} and ${dtype}: ${reason}`,
    { cause: problem },
  );
}
