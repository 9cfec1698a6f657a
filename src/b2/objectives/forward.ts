/**
 * Learning on the forward process, as in DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): the
 * images of a stage are diffused anew, and the model learns to denoise the good ones and to unlearn the bad ones. It
 * needs final latents and rewards alone, so any sampler will do: without noise, with few steps, with guidance while only
 * the conditional branch is trained.
 *
 * Departures: `exponent` chooses between the normalisation of DiffusionNFT, that of AWM (Xue et al. 2025, arXiv
 * 2509.25050) and none; `weighting` by the signal-to-noise ratio is for models that predict noise, whose error of x_0
 * grows without bound toward pure noise.
 */
import { z } from "zod";
import { tensor, tidy, type Tensor } from "../../torch/index.js";
import { defineObjective, type LatentBatch, type ObjectiveResult } from "./objective.js";
import { toFloats } from "./values.js";

const options = z.object({
  beta: z
    .number()
    .gt(0)
    .default(1)
    .describe(
      "How far the implicit positive and negative policies reach: out+- = (1 -+ beta) out_old +- beta out. The smaller, the further a step goes before the pull toward the weights that sampled holds it.",
    ),
  kl: z
    .number()
    .min(0)
    .default(0)
    .describe(
      "Weight of mean (out - out_base)^2, the pull toward the model before any training; over 0 it costs one more forward pass a pair.",
    ),
  decay: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe(
      "d of the weights that sample: after a stage they become d old + (1 - d) new. 0: each stage samples with the weights that it starts from.",
    ),
  decayRise: z
    .number()
    .gt(0)
    .nullable()
    .default(null)
    .describe(
      "After stage i (from 0) d is this times i, up to `decay`; DiffusionNFT has 0.001 up to 0.5. null: `decay` from the first stage on.",
    ),
  timesteps: z
    .int()
    .min(1)
    .nullable()
    .default(null)
    .describe("Timesteps of each sample in an epoch; null: `train.timestepFraction` of those that the sampler has."),
  timestepsFrom: z
    .enum(["sampler", "any"])
    .default("sampler")
    .describe(
      "`sampler`: drawn among the sampler's own timesteps, each at most once an epoch. `any`: evenly spread over all timesteps between its first and its last.",
    ),
  timestepsWithin: z
    .enum(["interval", "trajectory"])
    .nullable()
    .default(null)
    .describe(
      "Whether timesteps come from the branched interval or from the whole trajectory. null: from the interval where roots have several branches, which differ because of it alone, else from the trajectory.",
    ),
  minTimestep: z.number().min(0).nullable().default(null).describe("Timesteps below it are left out."),
  maxTimestep: z
    .number()
    .min(0)
    .nullable()
    .default(null)
    .describe("Timesteps above it are left out, such as 900 for a model that predicts noise."),
  exponent: z
    .number()
    .gt(0)
    .max(1)
    .default(0.5)
    .describe(
      "p: a sample's loss grows as its squared error to the power p, by a factor of error^(2p - 2) without gradient. 0.5 is DiffusionNFT, 0.25 is AWM, 1 is the plain squared error.",
    ),
  weighting: z
    .enum(["none", "snr"])
    .default("none")
    .describe(
      "`none`: the error of x_0, as DiffusionNFT. `snr`: times SNR^p, which makes it that of the noise, and with `snrCap` treats all timesteps with less noise as x_0.",
    ),
  snrCap: z
    .number()
    .gt(0)
    .nullable()
    .default(5)
    .describe("Largest SNR that `weighting` uses (gamma of Min-SNR, arXiv 2303.09556); null: none."),
});

/** The options of the forward-process objective that its loss uses. */
export type ForwardOptions = Pick<z.output<typeof options>, "beta" | "kl" | "exponent" | "weighting" | "snrCap">;

/** DiffusionNFT's lower bound of the normalisation. */
const LEAST_ERROR = 1e-5;

/**
 * With r = clamp(A / (2 A_max) + 1/2, 0, 1) and the implicit policies out+- = (1 -+ beta) out_old +- beta out:
 *
 *     loss = mean over rows of A_max [r L+ + (1 - r) L-] / beta + kl mean (out - out_base)^2
 *     L+-  = mean (x_0+- - x_0)^2 / w+-^(2 - 2p),  w+- = mean |x_0+- - x_0| without gradient
 *
 * with x_0+- as predicted by out+-.
 *
 * @param batch one row per sample and timestep, see LatentBatch; with the base prediction if `kl` is over 0
 */
export function forwardLoss(
  batch: Pick<
    LatentBatch,
    | "prediction"
    | "samplerPrediction"
    | "basePrediction"
    | "original"
    | "noisy"
    | "advantage"
    | "advantageClip"
    | "timesteps"
    | "scheduler"
  >,
  { beta, kl, exponent, weighting, snrCap }: ForwardOptions,
): ObjectiveResult {
  const { prediction, samplerPrediction, basePrediction, original, noisy, timesteps, scheduler } = batch;
  return tidy(() => {
    const errorOf = (output: Tensor): Tensor => scheduler.originalSample(output, noisy, timesteps).sub(original);
    // x_0 is affine in the output, so to mix outputs is to mix their errors of x_0.
    const own = errorOf(prediction).mul(beta);
    const old = errorOf(samplerPrediction!);
    const positive = normalised(own.add(old.mul(1 - beta)), exponent); // [B]
    const negative = normalised(old.mul(1 + beta).sub(own), exponent);
    const optimality = batch.advantage
      .div(2 * batch.advantageClip)
      .add(0.5)
      .clamp({ min: 0, max: 1 });
    const mixed = negative.add(optimality.mul(positive.sub(negative)));
    const weights = timesteps.map((t) => (weighting === "snr" ? snr(scheduler.marginal(t), snrCap) ** exponent : 1));
    const factors = weights.map((weight) => (weight * batch.advantageClip) / beta);
    const policy = mixed.mul(tensor(Float32Array.from(factors), { device: mixed.device })).mean();
    const metrics = {
      optimality: toFloats(optimality),
      positive: toFloats(positive),
      negative: toFloats(negative),
      drift: toFloats(squaredDistance(prediction, samplerPrediction!)),
    };
    if (kl === 0) return { loss: policy, metrics };
    const distance = squaredDistance(prediction, basePrediction!); // [B]
    return { loss: policy.add(distance.mean().mul(kl)), metrics: { ...metrics, baseKl: toFloats(distance) } };
  });
}

/** mean error^2 / w^(2 - 2p) of each row, w the mean absolute error without gradient: [B]. */
function normalised(error: Tensor, exponent: number): Tensor {
  const rows = error.flatten(1);
  const size = rows.detach().abs().mean({ dim: 1 }).clamp({ min: LEAST_ERROR });
  return rows
    .square()
    .mean({ dim: 1 })
    .mul(size.pow(2 * exponent - 2));
}

/** mean (a - b)^2 of each row: [B]. */
const squaredDistance = (a: Tensor, b: Tensor): Tensor => a.sub(b).square().flatten(1).mean({ dim: 1 });

/** The signal-to-noise ratio of a timestep, up to a cap. */
function snr({ signal, noise }: { readonly signal: number; readonly noise: number }, cap: number | null): number {
  return Math.min((signal / noise) ** 2, cap ?? Infinity);
}

export const forward = defineObjective({
  name: "forward",
  summary: "Learning on the forward process from final latents alone (DiffusionNFT, AWM)",
  learnsFrom: "final-latents",
  options,
  needs: ({ kl, decay, decayRise }) => {
    const samplerDecay = (stage: number): number => Math.min(decay, decayRise === null ? decay : decayRise * stage);
    return { sampler: true, samplerDecay: decay > 0 ? samplerDecay : null, base: kl > 0 };
  },
  timesteps: ({ timesteps: count, timestepsFrom: from, timestepsWithin: part, minTimestep: min, maxTimestep: max }) => {
    return { count, from, part, min, max };
  },
  conflicts: ({ train }, { timesteps, minTimestep, maxTimestep, decay, decayRise }) => [
    ...(decayRise !== null && decay === 0
      ? [`Expected objective.decay over 0 beside objective.decayRise, which rises to it, but received 0`]
      : []),
    ...(timesteps !== null && train.timestepFraction !== 1
      ? [
          `Expected train.timestepFraction 1 beside objective.timesteps, which says how many a sample has, but received ${train.timestepFraction}`,
        ]
      : []),
    ...(minTimestep !== null && maxTimestep !== null && minTimestep > maxTimestep
      ? [
          `Expected objective.minTimestep to be at most objective.maxTimestep (${maxTimestep}) but received ${minTimestep}`,
        ]
      : []),
  ],
  loss: (batch, chosen) => forwardLoss(batch, chosen),
});
