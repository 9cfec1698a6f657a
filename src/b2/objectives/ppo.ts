/**
 * PPO's clipped surrogate on denoising steps, as in DDPO (Black et al. 2023, arXiv 2305.13301, eq. 6). Log-probs are
 * means over latent dimensions, not sums.
 *
 * The divergence from the pre-trained model is that of DPOK (Fan et al. 2023, arXiv 2305.16381) and Flow-GRPO (Liu et
 * al. 2025, arXiv 2505.05470): exact, of the very distributions that the log-probs are of, and so of their scale.
 */
import { z } from "zod";
import { tensor, tidy, type Tensor } from "../../torch/index.js";
import { defineObjective, type ObjectiveResult, type TransitionBatch } from "./objective.js";
import { clipRange } from "./options.js";
import { toFloats } from "./values.js";

interface Options {
  readonly clipRange: number;
  readonly kl?: number;
}

type PpoBatch = Pick<TransitionBatch, "logProb" | "oldLogProb" | "advantage"> & Partial<GaussianBatch>;
type GaussianBatch = Required<Pick<TransitionBatch, "mean" | "baseMean" | "sigma">>;

/**
 * loss = mean max(-A r, -A clip(r, 1 - e, 1 + e)) + kl KL(new || base), r = exp(log_prob - log_prob_old).
 *
 * @param batch one row per pair, see TransitionBatch; with the base model's if `kl` is over 0
 * @param options `clipRange` is e
 */
export function ppoLoss(batch: PpoBatch, { clipRange, kl = 0 }: Options): ObjectiveResult {
  const { logProb, oldLogProb, advantage } = batch;
  return tidy(() => {
    const ratio = logProb.sub(oldLogProb).exp();
    const clippedRatio = ratio.clamp({ min: 1 - clipRange, max: 1 + clipRange });
    const reward = advantage.neg();
    const policy = reward.mul(ratio).maximum(reward.mul(clippedRatio)).mean();
    const values = toFloats(ratio);
    const metrics = {
      ratio: values,
      clipped: values.map((r) => (Math.abs(r - 1) > clipRange ? 1 : 0)),
      // Schulman's k3 estimator of KL(old || new): never negative.
      kl: values.map((r) => r - 1 - Math.log(r)),
    };
    if (kl === 0) return { loss: policy, metrics };
    const divergence = gaussianKl(batch as GaussianBatch);
    return { loss: policy.add(divergence.mean().mul(kl)), metrics: { ...metrics, baseKl: toFloats(divergence) } };
  });
}

/**
 * KL(new || base) of each row's transition, mean over latent dimensions: (mean - mean_base)^2 / (2 sigma^2), since both
 * have the same sigma. [B]; 0 for rows without noise.
 */
function gaussianKl({ mean, baseMean, sigma }: GaussianBatch): Tensor {
  const precision = sigma.map((s) => (s > 0 ? 1 / (2 * s * s) : 0));
  const distance = mean.sub(baseMean).square().flatten(1).mean({ dim: 1 });
  return distance.mul(tensor(Float32Array.from(precision), { device: distance.device }));
}

export const ppo = defineObjective({
  name: "ppo",
  summary: "The clipped policy gradient of PPO and DDPO",
  learnsFrom: "transitions",
  options: z.object({
    clipRange,
    kl: z
      .number()
      .min(0)
      .default(0)
      .describe(
        "Weight of the KL divergence from the model before any training, mean over latent dimensions; over 0 it costs one more forward pass a pair. 0.001 to 0.04 is usual.",
      ),
  }),
  needs: ({ kl }) => ({ base: kl > 0 }),
  loss: (batch, options) => ppoLoss(batch, options),
});
