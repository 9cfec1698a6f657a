// The losses against the same numbers in float64, worked out by hand.
import assert from "node:assert/strict";
import { test } from "node:test";
import { tensor, tidy } from "../../torch/index.js";
import { dpoLoss, ppoLoss } from "./index.js";

const old = [-1.2, -0.7, -0.4, -1.1];
const now = [-1.15, -0.9, -0.38, -1.35];
const clamp = (value: number, least: number, most: number): number => Math.min(Math.max(value, least), most);
const mean = (values: readonly number[]): number => values.reduce((sum, x) => sum + x, 0) / values.length;
const close = (actual: number, expected: number, what: string): void =>
  assert.ok(Math.abs(actual - expected) < 1e-6, `${what}: ${actual} for ${expected}`);

/** The derivative of a loss by each log-prob, by differences in float64. */
function slopes(lossOf: (logProbs: readonly number[]) => number): number[] {
  const h = 1e-6;
  return now.map((_, i) => {
    const moved = (by: number): number[] => now.map((value, j) => (i === j ? value + by : value));
    return (lossOf(moved(h)) - lossOf(moved(-h))) / (2 * h);
  });
}

test("ppo: the clipped surrogate, its gradient and what it reports", () => {
  const [advantages, e] = [[1.5, -0.5, 2, -3], 0.1];
  const lossOf = (logProbs: readonly number[]): number =>
    mean(
      logProbs.map((value, i) => {
        const ratio = Math.exp(value - old[i]!);
        return Math.max(-advantages[i]! * ratio, -advantages[i]! * clamp(ratio, 1 - e, 1 + e));
      }),
    );
  tidy(() => {
    const logProb = tensor(now).requiresGrad_();
    const { loss, metrics } = ppoLoss(
      { logProb, oldLogProb: tensor(old), advantage: tensor(advantages) },
      { clipRange: e },
    );
    close(loss.item(), lossOf(now), "loss");
    loss.backward();
    logProb.grad!.toArray().forEach((slope, i) => close(slope, slopes(lossOf)[i]!, `gradient ${i}`));
    now.forEach((value, i) => {
      const ratio = Math.exp(value - old[i]!);
      close(metrics["ratio"]![i]!, ratio, "ratio");
      assert.equal(metrics["clipped"]![i], Math.abs(ratio - 1) > e ? 1 : 0);
      close(metrics["kl"]![i]!, ratio - 1 - Math.log(ratio), "kl");
    });
  });
});

test("dpo: the best half against the worst half, both log-ratios clipped", () => {
  const [e, beta] = [0.1, 0.7];
  const bounded = (logProbs: readonly number[]): number[] =>
    logProbs.map((value, i) => clamp(value - old[i]!, Math.log(1 - e), Math.log(1 + e)));
  const margins = (logProbs: readonly number[]): number[] => {
    const [b1, b2, w1, w2] = bounded(logProbs) as [number, number, number, number];
    return [beta * (b1 - w1), beta * (b2 - w2)];
  };
  const lossOf = (logProbs: readonly number[]): number =>
    mean(margins(logProbs).map((margin) => Math.log(1 + Math.exp(-margin))));
  tidy(() => {
    const logProb = tensor(now).requiresGrad_();
    const { loss, metrics } = dpoLoss({ logProb, oldLogProb: tensor(old) }, { clipRange: e, beta });
    close(loss.item(), lossOf(now), "loss");
    loss.backward();
    logProb.grad!.toArray().forEach((slope, i) => close(slope, slopes(lossOf)[i]!, `gradient ${i}`));
    margins(now).forEach((margin, i) => {
      close(metrics["margin"]![i]!, margin, "margin");
      assert.equal(metrics["ranked"]![i], margin > 0 ? 1 : 0);
    });
  });
});
