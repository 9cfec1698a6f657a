/** StableDiffusionPipeline against golden vectors: prompts, a whole guided trajectory with LoRA, and its pictures. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { LoraAdapter } from "../src/lora/index.js";
import { promptEmbeds, StableDiffusionPipeline, type TextEmbeds } from "../src/pipeline/index.js";
import { Generator, liveTensors, noGrad, tensor, tidy } from "../src/torch/index.js";
import { assertClose, followTrajectory, goldenUNets, outputTolerance } from "./support/golden.js";

for (const set of goldenUNets("lora", "io_trajectory.safetensors")) {
  describe(`StableDiffusionPipeline, golden ${set.name}`, () => {
    const pipeline = StableDiffusionPipeline.fromPretrained(set.folder);
    const io = set.tensors("lora", "io_trajectory.safetensors");
    const { texts } = set.json<{ texts: string[] }>("tokenizer", "expected.json");
    const prompts = texts.slice(0, 2);

    test("prompts", () => {
      tidy(() => {
        const embeds = pipeline.encodePrompts(prompts);
        const negative = pipeline.encodePrompts([""]);
        assertClose(embeds.states.hiddenStates, io.get("prompt_embeds"), outputTolerance, `${set.name} prompt_embeds`);
        const expected = io.get("negative_prompt_embeds");
        assertClose(negative.states.hiddenStates, expected, outputTolerance, `${set.name} negative_prompt_embeds`);
        const [first, other] = prompts as [string, string];
        const repeated = pipeline.encodePrompts([other, first, other]);
        assert(
          repeated.states.hiddenStates.equal(
            pipeline.encodePrompts([other, first]).select([0, 1, 0]).states.hiddenStates,
          ),
        );
        // Where in a batch a text stands may show in the last bit.
        const inTurn = embeds.select([1, 0, 1]).states.hiddenStates;
        assertClose(repeated.states.hiddenStates, inTurn, outputTolerance, `${set.name} repeated prompts`);
      });
    });

    test("a guided trajectory with its log-probabilities and pictures", () => {
      const rank = set.tensors("lora", "pytorch_lora_weights.safetensors");
      assert(rank.under("unet.").size > 0);
      const adapter = LoraAdapter.inject(pipeline.unet, { rank: 4, generator: new Generator(0) });
      adapter.load(set.path("lora", "pytorch_lora_weights.safetensors"));
      const run = () => tidy(() => noGrad(() => follow(goldenPrompts(prompts), goldenPrompts(["", ""], [0, 0]))));
      run(); // The sinusoids' frequencies stay.
      const before = liveTensors();
      run();
      assert(liveTensors() <= before); // fewer where garbage was collected
      adapter.remove();
    });

    /** With the sizes that the golden trajectory of SDXL was made with: those of the UNet's rows 0 and 1. */
    function goldenPrompts(texts: string[], sizes = [0, 1]): TextEmbeds {
      const { hiddenStates, pooled } = pipeline.encodePrompts(texts).states;
      if (!pipeline.isXL) return promptEmbeds({ hiddenStates });
      const rows = tensor(sizes, { dtype: "int64" });
      const timeIds = set.tensors("unet", "io.safetensors").get("time_ids").indexSelect(0, rows);
      return promptEmbeds({ hiddenStates, pooled: pooled!, timeIds });
    }

    function follow(embeds: TextEmbeds, negative: TextEmbeds): void {
      const guidanceScale = io.get("guidance_scale").item();
      followTrajectory(set, pipeline, pipeline.condition(embeds, { guidanceScale, negative }));
      const [last, steps] = [io.get("latents"), io.get("noise").size(0)];
      const oneByOne = pipeline.decode(last.select(1, steps), { batchSize: 1 });
      assertClose(oneByOne, io.get("image"), outputTolerance, `${set.name} image, decoded one by one`);
    }

    test("without guidance there is a single pass, and one prompt may serve all rows", () => {
      tidy(() =>
        noGrad(() => {
          const embeds = pipeline.encodePrompts([prompts[0]!]);
          const latents = io.get("latents").select(1, 0);
          const once = pipeline.predict(latents, 501, pipeline.condition(embeds, {}, 2));
          const perRow = pipeline.predict(latents, [501, 501], pipeline.condition(embeds.select([0, 0])));
          assertClose(once, perRow, outputTolerance, `${set.name} one prompt for all rows`);
          assert.throws(() => pipeline.condition(embeds, { guidanceScale: 5 }, 2), /Expected negative/);
        }),
      );
    });

    test("prepared prompts predict what plain ones do, step after step, and leave nothing behind", () => {
      const adapter = LoraAdapter.inject(pipeline.unet, { rank: 4, generator: new Generator(0) });
      adapter.load(set.path("lora", "pytorch_lora_weights.safetensors"));
      const before = liveTensors();
      const [embeds, negative] = [pipeline.encodePrompts(prompts), pipeline.encodePrompts([""])];
      const latents = tidy(() => io.get("latents").select(1, 0).clone());
      for (const guidance of [{}, { guidanceScale: 5, negative }]) {
        const prepared = pipeline.prepare(embeds, guidance);
        tidy(() =>
          noGrad(() => {
            for (const timesteps of [801, [401, 1]]) {
              const plain = pipeline.predict(latents, timesteps, pipeline.condition(embeds, guidance));
              assertClose(pipeline.predict(latents, timesteps, prepared), plain, 1e-6, `${set.name} prepared`);
            }
          }),
        );
        assert.throws(() => pipeline.predict(latents, 1, prepared), /Expected noGrad for a prepared conditioning/);
        prepared.dispose();
      }
      for (const held of [embeds, negative, latents]) held.dispose();
      assert(liveTensors() <= before); // fewer where garbage was collected
      adapter.remove();
    });

    test("latent shapes", () => {
      const { sample_size: side } = set.json<{ sample_size: number }>("unet", "config.json");
      const [channels, height, width] = pipeline.latentShape();
      assert.deepEqual([channels, height, width], [io.get("latents").size(2), side, side]);
      const factor = pipeline.vae.downscale;
      assert.deepEqual(pipeline.latentShape({ height: 3 * factor }), [channels, 3, width]);
      assert.throws(() => pipeline.latentShape({ width: factor + 1 }), /Expected a positive multiple of/);
    });
  });
}
