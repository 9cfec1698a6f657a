/** A noise schedule that ends in noise alone (rescale_betas_zero_snr), and a trajectory that starts there. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Generator, randn, tidy } from "../torch/index.js";
import { DDIMScheduler } from "./ddim.js";

const config = {
  ...{ beta_start: 0.00085, beta_end: 0.012, beta_schedule: "scaled_linear", clip_sample: false },
  ...{ prediction_type: "v_prediction", timestep_spacing: "trailing", rescale_betas_zero_snr: true },
};

test("alpha-bar is what PyTorch makes of algorithm 1", () => {
  const { alphasCumprod } = DDIMScheduler.fromConfig(config);
  // torch.cumprod of the rescaled schedule in float32, PyTorch 2.13.
  const expected: readonly [number, number][] = [
    ...([[0, 0.9991499781608582], [1, 0.9982334971427917], [250, 0.6524567008018494]] as const), // prettier-ignore
    ...([[500, 0.24101854860782623], [750, 0.032799094915390015], [900, 0.002960391342639923]] as const), // prettier-ignore
    ...([[990, 1.6530382708879188e-5], [998, 1.9679629303936963e-7]] as const), // prettier-ignore
  ].map(([t, alpha]) => [t, alpha]);
  for (const [t, alpha] of expected) {
    const error = Math.abs(alphasCumprod[t]! / alpha - 1);
    assert(error < 1e-4, `Expected ${alpha} at ${t} but received ${alphasCumprod[t]}`);
  }
  assert.equal(alphasCumprod[999], 0);
});

test("a trajectory that starts at noise alone has finite log-probabilities, the first by hand", () => {
  const scheduler = DDIMScheduler.fromConfig(config);
  const timesteps = scheduler.timesteps(10);
  assert.deepEqual([timesteps[0], timesteps.at(-1)], [999, 99]);
  tidy(() => {
    const generator = new Generator(0);
    const draw = () => randn([2, 4, 3, 5], { generator });
    let sample = draw();
    for (const timestep of timesteps) {
      const [modelOutput, noise] = [draw(), draw()];
      const step = scheduler.step({ modelOutput, timestep, sample, numInferenceSteps: 10, noise });
      for (const values of [step.prevSample, step.mean, step.logProb]) {
        assert(values.toArray().every(Number.isFinite), `at ${timestep}`);
      }
      if (timestep === 999) {
        // x_0 = -v, nothing points back to x_T, and sigma is all of the noise left: sqrt(1 - alpha-bar of 899).
        const alpha = scheduler.alphasCumprod[899]!;
        const sigma = Math.sqrt(1 - alpha);
        assert(Math.abs(step.sigma[0]! / sigma - 1) < 1e-6);
        const expected = modelOutput.mul(-Math.sqrt(alpha));
        assert(step.mean.sub(expected).abs().amax().item() < 1e-6);
        const density = noise.square().flatten(1).mean({ dim: 1 }).mul(-0.5).toArray();
        step.logProb.toArray().forEach((logProb, row) => {
          const exact = density[row]! - Math.log(sigma) - Math.log(2 * Math.PI) / 2;
          assert(Math.abs(logProb - exact) < 1e-5, `Expected ${exact} but received ${logProb}`);
        });
      }
      sample = step.prevSample;
    }
  });
});

test("is refused where the model predicts the noise, which says nothing of x_0 there", () => {
  assert.throws(
    () => DDIMScheduler.fromConfig({ ...config, prediction_type: "epsilon" }),
    /"v_prediction" or "sample" for prediction_type with rescale_betas_zero_snr but received "epsilon"/,
  );
});
