import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { tensor, tidy } from "../../torch/index.js";
import { dpoLoss, ppoLoss } from "./index.js";

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

describe("ppoLoss", () => {
  const advantages = [1.3, 1.3, -0.7, -0.7];

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
