/** FlowMatchScheduler against golden transitions: each is one row of a batch with a timestep of its own. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FlowMatchScheduler, openScheduler, type FlowNoise } from "../src/schedulers/index.js";
import { Generator, randn, tensor, tidy, zeros } from "../src/torch/index.js";
import { assertClose, goldenSets, outputTolerance } from "./support/golden.js";

const STEPS = 10;

for (const set of goldenSets("scheduler", `io_${STEPS}.safetensors`)) {
  describe(`FlowMatchScheduler, golden ${set.name}, ${STEPS} steps`, () => {
    const io = set.tensors("scheduler", `io_${STEPS}.safetensors`);
    const open = (noise?: FlowNoise) =>
      FlowMatchScheduler.fromPretrained(set.path("scheduler"), { eta: 0.7, ...(noise && { noise }) });
    const timesteps = open().timesteps(STEPS);
    const common = {
      modelOutput: io.get("model_output"),
      sample: io.get("sample"),
      timestep: timesteps,
      numInferenceSteps: STEPS,
    };

    test("timesteps and sigmas, to the bit", () => {
      assert.deepEqual(timesteps, io.get("timesteps").toArray());
      assert.deepEqual(open().sigmas(STEPS), io.get("sigmas").toArray());
    });

    for (const [noise, key] of [
      [undefined, "cps"],
      ["flow-sde", "sde"],
    ] as const) {
      test(`${key}: drawn from noise, and given`, () => {
        tidy(() => {
          const scheduler = open(noise);
          const drawn = scheduler.step({ ...common, noise: io.get("noise") });
          const what = (name: string) => `${set.name} ${key}: ${name}`;
          assertClose(drawn.prevSample, io.get(key), outputTolerance, what("prev_sample"));
          assertClose(drawn.mean, io.get(`${key}_mean`), outputTolerance, what("mean"));
          assertClose(drawn.logProb, io.get(`${key}_log_prob`), outputTolerance, what("log_prob"));
          if (key === "sde") assertClose(tensor(drawn.sigma), io.get("sde_std"), outputTolerance, what("sigma"));
          const given = scheduler.step({ ...common, prevSample: io.get(key) });
          assertClose(given.logProb, io.get(`${key}_log_prob`), outputTolerance, what("log_prob of a given sample"));
          // A row does not depend on its batch.
          const only = (name: string) => io.get(name).narrow(0, 3, 1);
          const alone = scheduler.step({
            ...common,
            modelOutput: only("model_output"),
            sample: only("sample"),
            timestep: timesteps[3]!,
            noise: only("noise"),
          });
          assert(alone.prevSample.equal(drawn.prevSample.narrow(0, 3, 1)));
          assert(alone.logProb.equal(drawn.logProb.narrow(0, 3, 1)));
        });
      });
    }

    test("without noise: Euler, whatever the noise would be", () => {
      tidy(() => {
        for (const noise of ["cps", "flow-sde"] as const) {
          for (const way of [{ eta: 0 }, { deterministic: true }]) {
            const { prevSample, logProb, sigma } = open(noise).step({ ...common, ...way });
            assertClose(prevSample, io.get("euler"), outputTolerance, `${set.name} euler`);
            assert.deepEqual([...logProb.toArray(), ...sigma], Array(2 * STEPS).fill(0));
          }
        }
      });
    });
  });
}

const scheduler = (config: object = {}, options = {}) => FlowMatchScheduler.fromConfig(config, "s", options);

test("the last step of CPS ends at x_0 and has no density; that of Flow-SDE has one", () => {
  tidy(() => {
    const generator = new Generator(0);
    const [sample, modelOutput, noise] = [0, 1, 2].map(() => randn([2, 4, 3, 3], { generator }));
    const ends = { sample: sample!, modelOutput: modelOutput!, timestep: scheduler().timesteps(5).at(-1)! };
    const cps = scheduler().step({ ...ends, numInferenceSteps: 5 });
    assertClose(cps.prevSample, cps.predOriginalSample, 1e-6, "x_0");
    assert.deepEqual([cps.sigma, cps.logProb.toArray()], [[0, 0], [0, 0]]); // prettier-ignore
    const sde = scheduler({}, { noise: "flow-sde" });
    assert.throws(() => sde.step({ ...ends, numInferenceSteps: 5 }), /Expected noise or prevSample/);
    const drawn = sde.step({ ...ends, numInferenceSteps: 5, noise: noise! });
    assert(drawn.sigma[0]! > 0 && drawn.logProb.toArray().every((value) => value !== 0));
  });
});

test("CPS keeps the noise level of the flow: signal 1 - sigma, noise sigma", () => {
  tidy(() => {
    const generator = new Generator(0);
    const flow = scheduler({ shift: 3 }, { eta: 0.8 });
    const [from, to] = flow.timesteps(4).slice(1) as [number, number];
    const [x0, e, noise] = [0, 1, 2].map(() => randn([1, 4, 64, 64], { generator }));
    const sample = flow.addNoise(x0!, e!, [from]);
    const modelOutput = flow.target(x0!, e!);
    const step = flow.step({ modelOutput, sample, timestep: from, numInferenceSteps: 4, noise: noise! });
    assertClose(step.predOriginalSample, x0!, 1e-5, "x_0");
    assertClose(flow.originalSample(modelOutput, sample, [from]), x0!, 1e-5, "x_0");
    const { signal, noise: sigma } = flow.marginal(to);
    const rest = step.prevSample.sub(x0!.mul(signal));
    assert(Math.abs(rest.std().item() / sigma - 1) < 0.02, `${rest.std().item()} beside ${sigma}`);
  });
});

test("timesteps of any number of steps begin at pure noise, and a shift of 1 spaces them evenly", () => {
  assert.deepEqual(scheduler().timesteps(1), [1000]);
  assert.deepEqual(
    scheduler()
      .timesteps(4)
      .map((t) => Math.round(t)),
    [1000, 667, 334, 1],
  );
  const all = scheduler({ shift: 3 }).timesteps(1000);
  assert(all.every((t, i) => i === 0 || t < all[i - 1]!));
});

describe("a schedule of the model's family", () => {
  /** 1 down to 1 / steps, evenly, which the pipelines of FLUX.2 and Z-Image hand to their scheduler. */
  const sigmas = (steps: number) => Array.from({ length: steps }, (_, i) => 1 - i / steps);

  test("sigmas of its own, and the config's shift, to diffusers' bits", () => {
    const flow = scheduler({ shift: 2.7 }, { schedule: { sigmas } });
    assert.deepEqual(flow.sigmas(4), [1, 0.8901098966598511, 0.7297297120094299, 0.4736842215061188, 0]);
  });

  test("a shift by the number of image tokens and of steps, to diffusers' bits", () => {
    // FLUX.2 [klein] at 512 x 512 pixels.
    const mu = (steps: number) => ({ 4: 2.0306897079499455, 10: 1.987811425576 })[steps]!;
    const flow = scheduler({ shift: 3, use_dynamic_shifting: true }, { schedule: { sigmas, mu } });
    assert.deepEqual(flow.sigmas(4), [1, 0.9580853581428528, 0.8839818835258484, 0.7174965739250183, 0]);
    assert.deepEqual(flow.timesteps(4), [1000, 958.0853881835938, 883.9818725585938, 717.49658203125]);
    assert(flow.timesteps(10).at(-1)! < flow.timesteps(4).at(-1)!);
  });

  test("its config is kept, for the shift of another size, and opens with another schedule", () => {
    const config = {
      base_image_seq_len: 256,
      base_shift: 0.5,
      use_dynamic_shifting: true,
      time_shift_type: "exponential",
    };
    const at = (mu: number) => scheduler({ ...config, shift_terminal: null }, { schedule: { mu: () => mu } });
    const written = at(0.5).toConfig();
    assert.deepEqual(written, {
      _class_name: "FlowMatchEulerDiscreteScheduler",
      num_train_timesteps: 1000,
      shift: 1,
      ...config,
    });
    const again = openScheduler({ name: "flow-match" }, written, "s", { mu: () => 1 });
    assert.deepEqual(again.timesteps(5), at(1).timesteps(5));
    assert.notDeepEqual(again.timesteps(5), at(0.5).timesteps(5));
  });

  test("what is not supported is refused", () => {
    const schedule = { mu: () => 1 };
    assert.throws(
      () => scheduler({ use_dynamic_shifting: true, time_shift_type: "linear" }, { schedule }),
      /^SchedulerConfigError: s: Expected "exponential" for time_shift_type but received "linear"$/,
    );
    assert.throws(
      () => scheduler({ use_dynamic_shifting: true }, { schedule: { sigmas } }),
      /Expected false for use_dynam/,
    );
  });
});

test("what has no meaning is refused with what was expected", () => {
  assert.throws(() => scheduler().timesteps(0), /Expected a whole number from 1 to 1000 for numInferenceSteps .* 0/);
  assert.throws(() => scheduler().timesteps(1001), /but received 1001/);
  assert.throws(() => scheduler().marginal(1000.5), /Expected a number from 0 to 1000 for a timestep .* 1000\.5/);
  tidy(() => {
    const x = zeros([2, 1, 2, 2]);
    const state = { modelOutput: x, sample: x, numInferenceSteps: 3, noise: x };
    assert.throws(() => scheduler().step({ ...state, timestep: 500 }), /Expected a timestep of 3 steps .* 500/);
    assert.throws(() => scheduler().step({ ...state, timestep: [1000] }), /Expected 2 timesteps/);
  });
  const refused: [object, RegExp][] = [
    [{ use_dynamic_shifting: true }, /^s: Expected false for use_dynamic_shifting but received true$/],
    [{ shift_terminal: 0.02 }, /Expected null for shift_terminal but received 0\.02/],
    [{ stochastic_sampling: true }, /Expected false for stochastic_sampling/],
    [{ shift: 0 }, /Expected a number between 0\.001 and 1000 for shift but received 0/],
    [{ _class_name: "PNDMScheduler", beta_start: 0.1 }, /^s: Expected a FlowMatch\w+ but received a PNDMScheduler; /],
    [{ beta_start: 0.1 }, /Expected no key beta_start but received 0\.1/],
  ];
  for (const [config, message] of refused) {
    assert.throws(() => scheduler(config), { name: "SchedulerConfigError", message });
  }
});

test("its config is diffusers'", () => {
  assert.deepEqual(scheduler({ shift: 3 }).toConfig(), {
    _class_name: "FlowMatchEulerDiscreteScheduler",
    num_train_timesteps: 1000,
    shift: 3,
  });
});
