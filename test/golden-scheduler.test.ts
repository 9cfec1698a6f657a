/** DDIMScheduler against golden transitions: each is one row of a batch with timesteps of its own. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { DDIMScheduler } from "../src/schedulers/index.js";
import { Generator, randn, tensor, tidy, zeros } from "../src/torch/index.js";
import { assertClose, goldenSets, outputTolerance } from "./support/golden.js";

for (const steps of [20, 50]) {
  for (const set of goldenSets("scheduler", `io_${steps}.safetensors`)) {
    describe(`DDIMScheduler, golden ${set.name}, ${steps} steps`, () => {
      const scheduler = DDIMScheduler.fromPretrained(set.path("scheduler"));
      const io = set.tensors("scheduler", `io_${steps}.safetensors`);
      const timesteps = scheduler.timesteps(steps);
      const common = {
        modelOutput: io.get("model_output"),
        sample: io.get("sample"),
        timestep: timesteps,
        numInferenceSteps: steps,
      };

      test("timesteps and alpha-bar", () => {
        assert.deepEqual(timesteps, io.get("timesteps").toArray());
        tidy(() => assertClose(tensor(scheduler.alphasCumprod), io.get("alphas_cumprod"), 1e-6, "alphas_cumprod"));
      });

      for (const eta of [1, 0.5]) {
        test(`eta ${eta}: drawn from noise, and given`, () => {
          tidy(() => {
            const drawn = scheduler.step({ ...common, eta, noise: io.get("noise") });
            const what = (name: string) => `${set.name} ${steps} steps, eta ${eta}: ${name}`;
            const previous = io.get(`prev_sample_eta${eta}`);
            const logProb = io.get(`log_prob_eta${eta}`);
            assertClose(drawn.prevSample, previous, outputTolerance, what("prev_sample"));
            assertClose(drawn.logProb, logProb, outputTolerance, what("log_prob"));
            assertClose(drawn.predOriginalSample, io.get("pred_original_sample"), outputTolerance, what("x_0"));
            if (eta === 1) {
              assertClose(drawn.mean, io.get("mean"), outputTolerance, what("mean"));
              assertClose(tensor(drawn.sigma), io.get("std_eta1"), outputTolerance, what("sigma"));
            }
            const given = scheduler.step({ ...common, eta, prevSample: previous });
            assertClose(given.logProb, logProb, outputTolerance, what("log_prob of a given sample"));
          });
        });
      }

      test("a row does not depend on its batch", () => {
        tidy(() => {
          const whole = scheduler.step({ ...common, noise: io.get("noise") });
          for (const row of [0, steps - 1]) {
            const only = (key: string) => io.get(key).narrow(0, row, 1);
            const alone = scheduler.step({
              ...common,
              modelOutput: only("model_output"),
              sample: only("sample"),
              timestep: timesteps[row]!,
              noise: only("noise"),
            });
            assert(alone.prevSample.equal(whole.prevSample.narrow(0, row, 1)));
            assert(alone.logProb.equal(whole.logProb.narrow(0, row, 1)));
          }
        });
      });
    });
  }
}

test("without noise a step is deterministic and its log-probability is 0", () => {
  tidy(() => {
    const scheduler = DDIMScheduler.fromConfig({ clip_sample: false });
    const state = { modelOutput: zeros([2, 4, 2, 2]), sample: zeros([2, 4, 2, 2]), numInferenceSteps: 10 };
    const { logProb, sigma } = scheduler.step({ ...state, timestep: [500, 0], eta: 0 });
    assert.deepEqual([logProb.toArray(), sigma], [[0, 0], [0, 0]]); // prettier-ignore
    assert.throws(() => scheduler.step({ ...state, timestep: 500 }), /Expected noise or prevSample/);
    assert.throws(() => scheduler.step({ ...state, timestep: [1, 2, 3] }), /Expected 2 timesteps/);
    assert.throws(() => scheduler.step({ ...state, timestep: 1000 }), /from 0 to 999 for a timestep/);
  });
});

test("velocity and x_0 prediction agree with epsilon", () => {
  tidy(() => {
    const generator = new Generator(0);
    const [x0, noise] = [randn([1, 4, 8, 8], { generator }), randn([1, 4, 8, 8], { generator })];
    const previous = (["epsilon", "v_prediction", "sample"] as const).map((prediction_type) => {
      const scheduler = DDIMScheduler.fromConfig({ prediction_type, clip_sample: false, steps_offset: 1 });
      const sample = scheduler.addNoise(x0, noise, [501]);
      const modelOutput = scheduler.target(x0, noise, [501]);
      const step = { modelOutput, sample, timestep: 501, numInferenceSteps: 20, noise };
      return scheduler.step(step).prevSample;
    });
    assertClose(previous[1]!, previous[0]!, 1e-6, "v_prediction");
    assertClose(previous[2]!, previous[0]!, 1e-6, "sample");
  });
});

test("timestep spacings are diffusers'", () => {
  const spaced = (timestep_spacing: string) => DDIMScheduler.fromConfig({ timestep_spacing }).timesteps(7);
  assert.deepEqual(spaced("leading"), [852, 710, 568, 426, 284, 142, 0]);
  assert.deepEqual(spaced("linspace"), [999, 832, 666, 500, 333, 166, 0]);
  assert.deepEqual(spaced("trailing"), [999, 856, 713, 570, 428, 285, 142]);
});

test("steps whose timesteps lie beyond the trained ones are refused", () => {
  const scheduler = DDIMScheduler.fromConfig({ steps_offset: 1 });
  assert.equal(scheduler.timesteps(999)[0], 999);
  assert.throws(() => scheduler.timesteps(1000), {
    name: "RangeError",
    message: /first timestep, with a steps_offset of 1, would be 1000 of 1000/,
  });
  assert.throws(
    () => DDIMScheduler.fromConfig({ steps_offset: 1000 }),
    /Expected a steps_offset below num_train_timesteps, 1000, but received 1000/,
  );
});

test("a config value that is not honoured is an error that names key and value", () => {
  const refused = (config: object) => () => DDIMScheduler.fromConfig(config);
  assert.throws(refused({ thresholding: true }), /Expected false for thresholding but received true/);
  assert.throws(refused({ beta_schedule: "cosine" }), /for beta_schedule but received "cosine"/);
  assert.throws(refused({ steps: 3 }), /Expected no key steps but received 3/);
  assert.throws(
    refused({ _class_name: "FlowMatchEulerDiscreteScheduler", shift: 3 }),
    /schedule of a diffusion model but received a FlowMatchEuler\w+; scheduler\.name=flow-match/,
  );
  assert.doesNotThrow(refused({ _class_name: "PNDMScheduler", skip_prk_steps: true, trained_betas: null }));
});
