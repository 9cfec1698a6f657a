/**
 * Which pairs are at fault where an optimiser step was skipped because its loss or its gradient is no number. The
 * micro-batches pass again, and those at fault pair by pair; this costs at most as much as the step itself, and nothing
 * where all is well.
 */
import { checkInterrupted } from "../../base/progress.js";
import { show } from "../../base/show.js";
import { clipGradNorm } from "../../optim/index.js";
import type { NotFinitePair } from "../../runs/index.js";
import { discardCheckpoints, tidy, yieldToEventLoop } from "../../torch/index.js";
import { lossOf, type StageData } from "./batches.js";
import type { MicroBatch, Pair } from "./plan.js";

type Part = NotFinitePair["part"];

/**
 * The pairs of the first micro-batch at fault whose own loss or gradient is not finite: all of it if that shows only
 * in their sum, none if only the sum of all micro-batches is too large. The parameters' gradients are overwritten.
 */
export async function notFinitePairs(
  data: StageData,
  microBatches: readonly MicroBatch[],
  signal: AbortSignal | undefined,
): Promise<NotFinitePair[]> {
  for (const microBatch of microBatches) {
    const together = await partAtFault(data, microBatch, signal);
    if (together === undefined) continue;
    const found: NotFinitePair[] = [];
    for (const pair of microBatch) {
      const alone = microBatch.length === 1 ? together : await partAtFault(data, [pair], signal);
      if (alone !== undefined) found.push(...described(data, pair, alone));
    }
    return found.length > 0 ? found : microBatch.flatMap((pair) => described(data, pair, together));
  }
  return [];
}

/** What is said of the pairs of a step. */
export function pairsInWords(pairs: readonly NotFinitePair[]): string {
  const [first] = pairs;
  if (first === undefined) return "the gradients of its micro-batches are too large to be summed";
  const { part, root, branch, prompt, timestep } = first;
  const others = pairs.length === 1 ? "" : ` and ${pairs.length - 1} more`;
  return `its ${part} is NaN or infinite, for root ${root}, branch ${branch} (${show(prompt, 80)}) at timestep ${timestep}${others}`;
}

async function partAtFault(
  data: StageData,
  pairs: MicroBatch,
  signal: AbortSignal | undefined,
): Promise<Part | undefined> {
  checkInterrupted(signal);
  const { policy } = data;
  const parameters = [...policy.parameters.values()];
  for (const parameter of parameters) parameter.grad = null;
  const loss = policy.passes.trained(() =>
    tidy(() => {
      const { loss } = lossOf(data, pairs);
      loss.backward();
      return loss.item();
    }),
  );
  discardCheckpoints();
  await yieldToEventLoop();
  if (!Number.isFinite(loss)) return "loss";
  return Number.isFinite(clipGradNorm(parameters, Infinity)) ? undefined : "gradient";
}

/** The rows of a pair: one, or best and worst branch. */
const described = ({ trainSet }: StageData, { item, timestep }: Pair, part: Part): NotFinitePair[] =>
  item.map((row) => {
    const { root, branch, prompt, stage = trainSet.stage } = trainSet.keys[row]!;
    return { part, stage, root, branch, prompt, timestep };
  });
