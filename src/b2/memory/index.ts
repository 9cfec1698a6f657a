/** The memory of a run, estimated from its config. */
import { listOf } from "../../base/show.js";
import type { Config } from "../config/schema.js";
import { runMemory } from "./phases.js";

export { runMemory, type PhaseMemory, type RunMemory } from "./phases.js";
export { weightMemory, type MemoryEstimate, type WeightMemory } from "./weights.js";

/** The estimate as lines of `--dry-run`. */
export function memoryLines(config: Config): string[] {
  const { weights, phases, trajectories } = runMemory(config);
  const { devices, unknown } = weights;
  const megabytes = (bytes: number): string => `${Math.ceil(bytes / 1e6).toLocaleString("en-US")} MB`;
  const onTop = phases === undefined ? "; activations come on top" : "";
  const peaks = Object.entries(phases ?? {}).map(
    ([phase, { weights, passes }]) => `${phase} ${megabytes(weights + passes)}`,
  );
  return [
    ...[...devices].map(
      ([device, { scoring, training, encoding }]) =>
        `weights in memory: at most ${megabytes(scoring)} on ${device} while scoring, ${megabytes(training)} while training` +
        `${encoding === undefined ? "" : `, ${megabytes(encoding)} while prompts are encoded, before`}${onTop}`,
    ),
    ...(unknown.length === 0 ? [] : [`weights in memory without those of ${listOf(unknown, "and")}, to be downloaded`]),
    ...(peaks.length === 0 ? [] : [`peaks on ${config.model.device}, activations included: ${peaks.join(", ")}`]),
    ...(trajectories === undefined ? [] : [`a stage's trajectories in main memory: ${megabytes(trajectories)}`]),
  ];
}
