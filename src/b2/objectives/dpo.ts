/**
 * Direct preference optimisation on denoising steps as in D3PO (Yang et al. 2023, arXiv 2311.13231, eq. 12), here on
 * the best and the worst branch of one root, which share everything up to the split.
 *
 * Departure: unless `reference` says otherwise, the reference policy is the one that sampled, not the pre-trained one.
 * With the pre-trained one it is the loss of D3PO, which is that of Diffusion-DPO (Wallace et al. 2023, arXiv
 * 2311.12908) on sampled steps.
 */
import { z } from "zod";
import { tidy } from "../../torch/index.js";
import type { TrainSet } from "../records.js";
import { defineObjective, type Item, type ObjectiveResult, type TransitionBatch } from "./objective.js";
import { clipRange } from "./options.js";
import { toFloats } from "./values.js";

interface Options {
  readonly clipRange: number;
  readonly beta: number;
  readonly reference?: "sampler" | "base";
}

/** exp overflows in float32 at 88.7. */
const LINEAR_FROM = 80;

/**
 * loss = mean -log sigmoid(beta (log r_best - log r_worst)), both log-ratios to the reference clipped to those of 1 - e
 * .. 1 + e.
 *
 * @param batch with the base model's log-probs if it is the reference; the first half of the rows are best branches, the second half the worst branches of the same roots at
 *   the same timesteps; advantages are not used
 */
export function dpoLoss(
  { logProb, oldLogProb, baseLogProb }: Pick<TransitionBatch, "logProb" | "oldLogProb" | "baseLogProb">,
  { clipRange, beta, reference = "sampler" }: Options,
): ObjectiveResult {
  return tidy(() => {
    const logRatio = logProb.sub(reference === "base" ? baseLogProb! : oldLogProb);
    const bounded = logRatio.clamp({ min: Math.log(1 - clipRange), max: Math.log(1 + clipRange) });
    const [best, worst] = bounded.chunk(2, 0);
    const margin = best!.sub(worst!).mul(beta);
    // -log sigmoid(x) = log(1 + exp(-x)), which is -x to the last bit where exp would overflow.
    const lag = margin.neg();
    const logistic = lag.clamp({ max: LINEAR_FROM }).exp().add(1).log();
    const loss = logistic.add(lag.sub(LINEAR_FROM).clamp({ min: 0 })).mean();
    const margins = toFloats(margin);
    return {
      loss,
      metrics: {
        ratio: toFloats(logProb.sub(oldLogProb).exp()),
        margin: margins,
        ranked: margins.map((m) => (m > 0 ? 1 : 0)),
      },
    };
  });
}

/** The [best, worst] rows of every root, or node of a tree, that has two selected branches. */
function bestAndWorst({ keys, advantages }: Pick<TrainSet, "keys" | "advantages">): Item[] {
  const byNode = new Map<string, number[]>();
  keys.forEach(({ stage, root, edge }, row) => {
    const node = [stage, edge?.from, edge?.parent ?? root].join();
    byNode.set(node, [...(byNode.get(node) ?? []), row]);
  });
  return [...byNode.values()]
    .filter((rows) => rows.length === 2)
    .map((rows) => rows.sort((a, b) => advantages[b]! - advantages[a]!));
}

export const dpo = defineObjective({
  name: "dpo",
  summary: "Direct preference optimisation: the best over the worst branch of a root",
  learnsFrom: "transitions",
  options: z.object({
    clipRange,
    beta: z
      .number()
      .gt(0)
      .default(0.1)
      .describe("Temperature of the log-ratios, whose log-probs are means over the latent dimensions."),
    reference: z
      .enum(["sampler", "base"])
      .default("sampler")
      .describe(
        "What log-ratios refer to: the weights that sampled the stage, or the model before any training (D3PO, Diffusion-DPO), at the cost of one more forward pass a sample.",
      ),
  }),
  needs: ({ reference }) => ({ base: reference === "base" }),
  itemSize: 2,
  items: bestAndWorst,
  conflicts: ({ select, branch, train }) => [
    ...(select.mode === "best-worst" && branch.count >= 2
      ? []
      : [
          `Expected select.mode "best-worst" and branch.count of 2 or more for the objective dpo, which compares branches, but received "${select.mode}" and ${branch.count}`,
        ]),
    ...(train.stepWeights === "none"
      ? []
      : [
          `Expected train.stepWeights "none" for the objective dpo, which uses no advantages to weight, but received "${train.stepWeights}"`,
        ]),
  ],
  loss: (batch, options) => dpoLoss(batch, options),
});
