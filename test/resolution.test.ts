/** Pictures of any size: SDXL's conditions on it, odd latents from prompt to picture, and sides that cannot be. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { Policy } from "../src/b2/index.js";
import { catPrompts, promptEmbeds, StableDiffusionPipeline } from "../src/pipeline/index.js";
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
        const { states } = pipeline.encodePrompts(["a cat", "a dog"]);
        const predict = (more: object): Tensor =>
          pipeline.predict(latents, 501, pipeline.condition(promptEmbeds({ ...states, ...more })));
        const predicted = predict({});
        const given = (ids: number[]): Tensor => predict({ timeIds: tensor([ids, ids]) });
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
    const policy = Policy.forInference(tinyConfig({ model, sample: { guidanceScale: 3 } }));
    assert.deepEqual(policy.latentShape, [4, 16, 24]);
    tidy(() =>
      noGrad(() => {
        const x = latentsOf(2, policy.latentShape);
        const prompts = ["a cat", "a dog"];
        const predicted = policy.predict(x, 251, policy.conditioning(prompts));
        const model = policy.model as StableDiffusionPipeline;
        const sized = (texts: readonly string[]) => {
          const timeIds = tensor(texts.map(() => size));
          const encoded = catPrompts(texts.map((text) => model.encodePrompts([text]))); // alone, as a policy does
          return promptEmbeds({ ...encoded.states, timeIds });
        };
        const guidance = { guidanceScale: 3, negative: sized([""]) };
        const given = policy.predict(x, 251, model.condition(sized(prompts), guidance));
        assert.equal(relativeError(predicted, given), 0);
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
          const conditioning = pipeline.condition(pipeline.encodePrompts(["a cat"]));
          for (const timestep of pipeline.scheduler.timesteps(2)) {
            const modelOutput = pipeline.predict(sample, timestep, conditioning);
            const noise = latentsOf(1, sample.shape.slice(1));
            const step = { modelOutput, timestep, sample, numInferenceSteps: 2, noise };
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

test("model.tiling decodes images larger than the VAE's own in tiles, and only those", () => {
  const load = (tiling: boolean) => Policy.forInference(tinyConfig({ model: { path: join(fixtures, "sd1"), tiling } }));
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
