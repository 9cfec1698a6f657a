/**
 * PPO's clipped surrogate on denoising steps, as in DDPO (Black et al. 2023, arXiv 2305.13301, eq. 6). Log-probs are
 * means over latent dimensions, not sums.
 */
import { z } from "zod";
import { tidy } from "../../torch/index.js";
import { defineObjective, type ObjectiveResult, type TransitionBatch } from "./objective.js";
import { clipRange } from "./options.js";
import { toFloats } from "./values.js";

interface Options {
  readonly clipRange: number;
}

/**
 * loss = mean max(-A r, -A clip(r, 1 - e, 1 + e)), r = exp(log_prob - log_prob_old).
 *
 * @param batch one row per pair, see TransitionBatch
 * @param options `clipRange` is e
 */
export function ppoLoss(
  { logProb, oldLogProb, advantage }: Pick<TransitionBatch, "logProb" | "oldLogProb" | "advantage">,
  { clipRange }: Options,
): ObjectiveResult {
  return tidy(() => {
    const ratio = logProb.sub(oldLogProb).exp();
    const clippedRatio = ratio.clamp({ min: 1 - clipRange, max: 1 + clipRange });
    const reward = advantage.neg();
    const loss = reward.mul(ratio).maximum(reward.mul(clippedRatio)).mean();
    const values = toFloats(ratio);
    return {
      loss,
      metrics: {
        ratio: values,
        clipped: values.map((r) => (Math.abs(r - 1) > clipRange ? 1 : 0)),
        // Schulman's k3 estimator of KL(old || new): never negative.
        kl: values.map((r) => r - 1 - Math.log(r)),
      },
    };
  });
}

export const ppo = defineObjective({
  name: "ppo",
  summary: "The clipped policy gradient of PPO and DDPO",
  learnsFrom: "transitions",
  options: z.object({ clipRange }),
  loss: (batch, options) => ppoLoss(batch, options),
});
