/** Pictures of any size: SDXL's conditions on it, odd latents from prompt to picture, and sides that cannot be. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { Policy } from "../src/b2/index.js";
import { promptEmbeds, StableDiffusionPipeline } from "../src/pipeline/index.js";
import { Generator, noGrad, randn, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { fixtures } from "./support/folders.js";
import { relativeError } from "./support/golden.js";
import { tinyConfig } from "./support/tiny.js";

const latentsOf = (batch: number, shape: readonly number[]) =>
  randn([batch, ...shape], { generator: new Generator(0) });

describe("SDXL's conditions on size", () => {
  const size = [64, 96, 0, 0, 64, 96]; // original size, crop, target size

  test("are the picture's own, as if given", () => {
    const pipeline = StableDiffusionPipeline.fromPretrained(join(fixtures, "sdxl"));
    tidy(() =>
      noGrad(() => {
        const shape = pipeline.latentShape({ height: 64, width: 96 });
        assert.deepEqual(shape, [4, 16, 24]);
        const latents = latentsOf(2, shape);
        const { hiddenStates, pooled } = pipeline.encodePrompts(["a cat", "a dog"]);
        const predicted = pipeline.predictNoise(latents, 501, promptEmbeds(hiddenStates, pooled));
        const given = (ids: number[]): Tensor =>
          pipeline.predictNoise(latents, 501, promptEmbeds(hiddenStates, pooled, tensor([ids, ids])));
        assert.equal(relativeError(predicted, given(size)), 0);
        // Nor does any of the six pass by unnoticed.
        for (let i = 0; i < 6; i++) {
          const other = size.map((value, j) => (i === j ? value + 8 : value));
          assert(relativeError(given(other), predicted) > 1e-5, `condition ${i}`);
        }
      }),
    );
    pipeline.dispose();
  });

  test("follow model.height and model.width of a run", () => {
    const model = { path: join(fixtures, "sdxl"), height: 64, width: 96 };
    const policy = Policy.load(tinyConfig({ model, sample: { guidanceScale: 3 } }), { lora: [] });
    assert.deepEqual(policy.latentShape, [4, 16, 24]);
    tidy(() =>
      noGrad(() => {
        const x = latentsOf(2, policy.latentShape);
        const condition = policy.condition(["a cat", "a dog"]);
        const { mean } = policy.transition(x, 251, condition, { noise: latentsOf(2, policy.latentShape) });
        const { guidanceScale, negative } = condition.guidance;
        const sized = ({ hiddenStates, pooled }: typeof condition.prompts) =>
          promptEmbeds(hiddenStates, pooled, tensor(Array.from({ length: hiddenStates.size(0) }, () => size)));
        const given = policy.transition(
          x,
          251,
          {
            prompts: sized(condition.prompts),
            guidance: { guidanceScale: guidanceScale!, negative: sized(negative!) },
            dispose: () => undefined,
          },
          { noise: latentsOf(2, policy.latentShape) },
        );
        assert.equal(relativeError(mean, given.mean), 0);
        condition.dispose();
      }),
    );
    policy.dispose();
  });
});

describe("odd sizes", () => {
  for (const [family, scale] of [
    ["sd1", 4],
    ["sd2", 8],
    ["sdxl", 4],
  ] as const) {
    // prettier-ignore
    test(`${family}: 9 by 11 latents, from noise to a picture`, () => {
      const [height, width] = [9 * scale, 11 * scale];
      const pipeline = StableDiffusionPipeline.fromPretrained(join(fixtures, family));
      tidy(() =>
        noGrad(() => {
          let sample: Tensor = latentsOf(1, pipeline.latentShape({ height, width }));
          assert.deepEqual(sample.shape, [1, 4, 9, 11]);
          const prompts = pipeline.encodePrompts(["a cat"]);
          for (const timestep of pipeline.scheduler.timesteps(2)) {
            const modelOutput = pipeline.predictNoise(sample, timestep, prompts);
            const step = { modelOutput, timestep, sample, numInferenceSteps: 2, eta: 0 };
            sample = pipeline.scheduler.step(step).prevSample;
          }
          const picture = pipeline.decode(sample);
          assert.deepEqual(picture.shape, [1, 3, height, width]);
          assert(picture.toArray().every((value) => value >= 0 && value <= 1));
        }),
      );
      pipeline.dispose();
    });
  }
});

test("model.vaeTiling decodes pictures larger than the VAE's own in tiles, and only those", () => {
  const load = (vaeTiling: boolean) =>
    Policy.load(tinyConfig({ model: { path: join(fixtures, "sd1"), vaeTiling } }), { lora: [] });
  const [whole, tiled] = [load(false), load(true)];
  tidy(() => {
    const [small, large] = [latentsOf(1, [4, 16, 16]), latentsOf(1, [4, 16, 24])]; // 64 pixels were trained on
    noGrad(() => {
      assert(tiled.decode(small).equal(whole.decode(small)));
      assert(relativeError(tiled.decode(large), whole.decode(large)) > 1e-3);
    });
  });
  for (const policy of [whole, tiled]) policy.dispose();
});

test("a side that is no multiple of 8 is refused before a model is looked for", () => {
  assert.throws(
    () => tinyConfig({ model: { path: "nowhere", height: 100, width: 96 } }),
    /Expected a multiple of 8 for model.height but received 100/,
  );
});
