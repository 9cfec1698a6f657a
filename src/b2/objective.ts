/**
 * The objectives: pure functions of log-probs, one number to descend, and what is worth knowing about it row by row.
 *
 * Sources: PPO's clipped surrogate as DDPO uses it (arXiv 2305.13301, eq. 6); direct preference optimisation on
 * denoising steps as in D3PO (arXiv 2311.13231, eq. 12), here on the best and worst branch of one root, which share
 * everything up to the split. The reference of `dpo` is the policy that sampled, not the pre-trained one.
 */
import { type Tensor, tidy } from "../torch/index.js";

/** Log-probs of the same transitions, [B], under the policy that learns and the one that sampled. */
export interface Transitions {
  /** With gradient. */
  readonly logProb: Tensor;
  readonly oldLogProb: Tensor;
  /** Advantages of the samples the transitions belong to, clipped and weighted, [B]. */
  readonly advantage: Tensor;
}

export interface ObjectiveResult {
  /** The mean over rows, a scalar with gradient. */
  readonly loss: Tensor;
  /** One value a row (a pair of rows for dpo); docs/metrics.md explains them. `ratio` is always there. */
  readonly metrics: { readonly ratio: Float32Array } & Readonly<Record<string, Float32Array>>;
}

/**
 * loss = mean max(-A r, -A clip(r, 1 - e, 1 + e)), r = exp(log_prob - log_prob_old).
 *
 * @param clipRange e
 */
export function ppo(
  { logProb, oldLogProb, advantage }: Transitions,
  { clipRange }: { clipRange: number },
): ObjectiveResult {
  return tidy(() => {
    const logRatio = logProb.sub(oldLogProb);
    const ratio = logRatio.exp();
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

/**
 * loss = mean -log sigmoid(beta (log r_best - log r_worst)), both log-ratios clipped to those of 1 - e .. 1 + e.
 *
 * @param transitions the first half of the rows are of best branches, the second of the worst of the same roots at the
 *   same timesteps; advantages play no part
 */
export function dpo(
  { logProb, oldLogProb }: Transitions,
  { clipRange, beta }: { clipRange: number; beta: number },
): ObjectiveResult {
  return tidy(() => {
    const logRatio = logProb.sub(oldLogProb);
    const bounded = logRatio.clamp({ min: Math.log(1 - clipRange), max: Math.log(1 + clipRange) });
    const [best, worst] = bounded.chunk(2, 0);
    const margin = best!.sub(worst!).mul(beta);
    // -log sigmoid(x) = log(1 + exp(-x)); |x| is small where the ratios are clipped, so this does not overflow.
    const loss = margin.neg().exp().add(1).log().mean();
    const margins = toFloats(margin);
    return {
      loss,
      metrics: { ratio: toFloats(logRatio.exp()), margin: margins, ranked: margins.map((m) => (m > 0 ? 1 : 0)) },
    };
  });
}

const toFloats = (t: Tensor): Float32Array => t.detach().to({ device: "cpu" }).toTypedArray() as Float32Array;

/** Advantages as the update uses them: clipped, then weighted by sign (beta1 and beta2 of the paper). */
export function weightedAdvantages(
  advantages: readonly number[],
  { clip, positiveWeight, negativeWeight }: { clip: number; positiveWeight: number; negativeWeight: number },
): number[] {
  return advantages.map((a) => {
    const clipped = Math.min(Math.max(a, -clip), clip);
    return clipped * (clipped > 0 ? positiveWeight : negativeWeight);
  });
}
