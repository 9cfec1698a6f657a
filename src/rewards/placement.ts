/** The options of a reward that loads a model: where it lives, and in which precision. */
import { z } from "zod";
import type { Device } from "../torch/index.js";
import type { Placement } from "./reward.js";

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
