import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { DDIMScheduler } from "../../schedulers/index.js";
import { tensor, tidy } from "../../torch/index.js";
import { dpoLoss, forwardLoss, ppoLoss, type ForwardOptions } from "./index.js";

// Log-ratios of two pairs of branches: the best ones first. The last is beyond 1 + e.
const logRatios = [0.01, 0.3, -0.02, -0.05];
const old = [-1.25, -0.5, -1.5, -0.75];
const [clipRange, beta] = [0.1, 2];
const bounded = logRatios.map((x) => Math.min(Math.max(x, Math.log(1 - clipRange)), Math.log(1 + clipRange)));
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));

const close = (actual: ArrayLike<number>, expected: readonly number[]): void => {
  assert.equal(actual.length, expected.length);
  expected.forEach((value, i) => assert.ok(Math.abs(actual[i]! - value) < 1e-6, `${actual[i]} for ${value}`));
};

describe("dpoLoss", () => {
  const margins = [0, 1].map((pair) => beta * (bounded[pair]! - bounded[pair + 2]!));

  it("is the mean of -log sigmoid(beta (log r_best - log r_worst)) with clipped ratios", () => {
    tidy(() => {
      const batch = { logProb: tensor(old.map((x, i) => x + logRatios[i]!)), oldLogProb: tensor(old) };
      const { loss, metrics } = dpoLoss(batch, { clipRange, beta });
      close([loss.item()], [-(Math.log(sigmoid(margins[0]!)) + Math.log(sigmoid(margins[1]!))) / 2]);
      close(metrics["margin"]!, margins);
      close(metrics["ratio"]!, logRatios.map(Math.exp));
      close(metrics["ranked"]!, [1, 1]);
    });
  });

  it("pulls the best up and the worst down, and leaves what is clipped", () => {
    tidy(() => {
      const logProb = tensor(old.map((x, i) => x + logRatios[i]!)).requiresGrad_();
      dpoLoss({ logProb, oldLogProb: tensor(old) }, { clipRange, beta }).loss.backward();
      const slopes = margins.map((margin) => (beta * (sigmoid(margin) - 1)) / 2);
      close(logProb.grad!.toArray(), [slopes[0]!, 0, -slopes[0]!, -slopes[1]!]);
      logProb.grad = null;
    });
  });

  it("knows a pair in the wrong order", () => {
    tidy(() => {
      const { loss, metrics } = dpoLoss(
        { logProb: tensor([-1.05, -1]), oldLogProb: tensor([-1, -1]) },
        { clipRange, beta },
      );
      close([loss.item()], [Math.log(1 + Math.exp(beta * 0.05))]);
      close(metrics["ranked"]!, [0]);
    });
  });
});

describe("dpoLoss against the base model", () => {
  const base = [-1.26, -0.45, -1.46, -0.79];
  const toBase = base.map((x, i) => old[i]! + logRatios[i]! - x);
  const margins = [0, 1].map((pair) => beta * (toBase[pair]! - toBase[pair + 2]!));
  const batch = () => {
    const logProb = tensor(old.map((x, i) => x + logRatios[i]!)).requiresGrad_();
    return { logProb, oldLogProb: tensor(old), baseLogProb: tensor(base) };
  };

  it("takes log-ratios to its log-probs, and reports ratios to the sampler's", () => {
    tidy(() => {
      const rows = batch();
      const { loss, metrics } = dpoLoss(rows, { clipRange: 0.9, beta, reference: "base" });
      close([loss.item()], [-(Math.log(sigmoid(margins[0]!)) + Math.log(sigmoid(margins[1]!))) / 2]);
      close(metrics["margin"]!, margins);
      close(metrics["ratio"]!, logRatios.map(Math.exp));
      loss.backward();
      const slopes = margins.map((margin) => (beta * (sigmoid(margin) - 1)) / 2);
      close(rows.logProb.grad!.toArray(), [slopes[0]!, slopes[1]!, -slopes[0]!, -slopes[1]!]);
      rows.logProb.grad = null;
    });
  });

  it("does not overflow with the large beta of Diffusion-DPO", () => {
    tidy(() => {
      const rows = { logProb: tensor([-1.05, -1]).requiresGrad_(), oldLogProb: tensor([-1, -1]) };
      const { loss } = dpoLoss(rows, { clipRange, beta: 5000 });
      assert.ok(Math.abs(loss.item() - 250) < 1e-3);
      loss.backward();
      rows.logProb.grad!.toArray().forEach((slope, i) => assert.ok(Math.abs(slope - [-5000, 5000][i]!) < 1e-2));
      rows.logProb.grad = null;
    });
  });
});

describe("ppoLoss", () => {
  const advantages = [1.3, 1.3, -0.7, -0.7];

  it("adds the KL divergence of each transition from the base model's, whose sigma is the same", () => {
    tidy(() => {
      const [means, bases, sigma] = [
        [0.5, -0.25, 1, 2],
        [0.4, -0.5, 1, 1.5],
        [0.5, 0],
      ] as const;
      const mean = tensor(means, { shape: [2, 2] }).requiresGrad_();
      const rows = { logProb: tensor([-1, -1]), oldLogProb: tensor([-1, -1]), advantage: tensor([1, -3]) };
      const options = { clipRange, kl: 0.04 };
      const { loss, metrics } = ppoLoss({ ...rows, mean, baseMean: tensor(bases, { shape: [2, 2] }), sigma }, options);
      const divergence = (0.1 ** 2 + 0.25 ** 2) / 2 / (2 * 0.5 ** 2);
      close(metrics["baseKl"]!, [divergence, 0]);
      close([loss.item()], [1 + (0.04 * divergence) / 2]);
      loss.backward();
      close(
        mean.grad!.toArray(),
        [0.1, 0.25, 0, 0].map((d) => (0.04 * d) / 2 / 2 / 0.5 ** 2),
      );
      mean.grad = null;
    });
  });

  it("is the mean of max(-A r, -A clip(r, 1 - e, 1 + e)), whose gradient is 0 where the clip is the larger", () => {
    tidy(() => {
      const logProb = tensor(old.map((x, i) => x + logRatios[i]!)).requiresGrad_();
      const batch = { logProb, oldLogProb: tensor(old), advantage: tensor(advantages) };
      const { loss, metrics } = ppoLoss(batch, { clipRange });
      const ratios = logRatios.map(Math.exp);
      const clip = (r: number): number => Math.min(Math.max(r, 1 - clipRange), 1 + clipRange);
      const losses = ratios.map((r, i) => Math.max(-advantages[i]! * r, -advantages[i]! * clip(r)));
      close([loss.item()], [losses.reduce((sum, x) => sum + x) / 4]);
      close(metrics["clipped"]!, [0, 1, 0, 0]);
      close(
        metrics["kl"]!,
        ratios.map((r) => r - 1 - Math.log(r)),
      );
      loss.backward();
      close(
        logProb.grad!.toArray(),
        ratios.map((r, i) => (i === 1 ? 0 : (-advantages[i]! * r) / 4)),
      );
      logProb.grad = null;
    });
  });
});

describe("forwardLoss", () => {
  const clip = 5;
  const advantages = [4, -1, -7];
  const timesteps = [900, 400, 30];
  const values = {
    out: [0.3, -1.2, 0.8, 0.1, -0.4, 1.5],
    old: [0.2, -1.1, 0.9, 0.3, -0.5, 1.2],
    base: [0.1, -1.0, 0.7, 0.2, -0.6, 1.1],
    original: [1.0, -0.5, 0.25, 2, -1, 0.5],
    noisy: [0.4, -1.1, 0.6, 1.2, -1.1, 0.7],
  };
  const rowsOf = (list: readonly number[]): number[][] => [0, 1, 2].map((row) => list.slice(2 * row, 2 * row + 2));
  const mean = (list: readonly number[]): number => list.reduce((sum, x) => sum + x, 0) / list.length;
  const settings: Record<string, { type: string; options: ForwardOptions }> = {
    "as DiffusionNFT": {
      type: "epsilon",
      options: { beta: 0.5, kl: 0, exponent: 0.5, weighting: "none", snrCap: 5 },
    },
    "with AWM's exponent, the KL and v-prediction": {
      type: "v_prediction",
      options: { beta: 1, kl: 0.3, exponent: 0.25, weighting: "none", snrCap: 5 },
    },
    "with the plain squared error, weighted by a bounded SNR": {
      type: "epsilon",
      options: { beta: 0.1, kl: 0, exponent: 1, weighting: "snr", snrCap: 2 },
    },
  };

  for (const [name, { type, options }] of Object.entries(settings)) {
    it(`is the sum worked out by hand, and its gradient by differences, ${name}`, () => {
      const scheduler = DDIMScheduler.fromConfig({ beta_schedule: "scaled_linear", prediction_type: type });
      const { beta, kl, exponent, weighting, snrCap } = options;
      const byHand = (out: readonly number[], fixed?: readonly number[][]): { loss: number; sizes: number[][] } => {
        const sizes: number[][] = [];
        const losses = timesteps.map((t, row) => {
          const { signal: a, noise: s } = scheduler.marginal(t);
          const [x, x0] = [rowsOf(values.noisy)[row]!, rowsOf(values.original)[row]!];
          const [own, old, base] = [out, values.old, values.base].map((list) => rowsOf(list)[row]!);
          const errors = [beta, -beta].map((b) =>
            x.map((xi, i) => {
              const mixed = b * own![i]! + (1 - b) * old![i]!;
              return (type === "epsilon" ? (xi - s * mixed) / a : a * xi - s * mixed) - x0[i]!;
            }),
          );
          sizes.push(errors.map((error) => Math.max(mean(error.map(Math.abs)), 1e-5)));
          const [positive, negative] = errors.map(
            (error, i) => mean(error.map((e) => e ** 2)) / (fixed ?? sizes)[row]![i]! ** (2 - 2 * exponent),
          );
          const r = Math.min(Math.max(advantages[row]! / clip / 2 + 0.5, 0), 1);
          const weight = weighting === "snr" ? Math.min((a / s) ** 2, snrCap!) ** exponent : 1;
          const distance = mean(own!.map((o, i) => (o - base![i]!) ** 2));
          return ((clip * weight) / beta) * (r * positive! + (1 - r) * negative!) + kl * distance;
        });
        return { loss: mean(losses), sizes };
      };
      tidy(() => {
        const latents = (list: readonly number[]) => tensor(list, { shape: [3, 2] });
        const prediction = latents(values.out).requiresGrad_();
        const { loss } = forwardLoss(
          {
            prediction,
            samplerPrediction: latents(values.old),
            basePrediction: latents(values.base),
            original: latents(values.original),
            noisy: latents(values.noisy),
            advantage: tensor(advantages),
            advantageClip: clip,
            timesteps,
            scheduler,
          },
          options,
        );
        const { loss: expected, sizes } = byHand(values.out);
        assert.ok(Math.abs(loss.item() / expected - 1) < 1e-5, `${loss.item()} for ${expected}`);
        loss.backward();
        prediction.grad!.toArray().forEach((slope, i) => {
          const moved = (by: number): number =>
            byHand(
              values.out.map((x, k) => (k === i ? x + by : x)),
              sizes,
            ).loss;
          const difference = (moved(1e-4) - moved(-1e-4)) / 2e-4;
          assert.ok(
            Math.abs(slope - difference) < 1e-4 * Math.max(1, Math.abs(difference)),
            `${slope} for ${difference}`,
          );
        });
        prediction.grad = null;
      });
    });
  }
});
