/** StableDiffusion3Pipeline against golden vectors, and its folders: with and without each text encoder. */
import assert from "node:assert/strict";
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { loadLora } from "../src/lora/index.js";
import { T5EncoderModel } from "../src/models/index.js";
import { StableDiffusion3Pipeline, type TextEmbeds } from "../src/pipeline/index.js";
import { Generator, inference, liveTensors, noGrad, randn, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import {
  assertClose,
  followTrajectory,
  goldenModel,
  goldenSets,
  outputTolerance,
  type GoldenPolicyUpdate,
} from "./support/golden.js";

/** Tokens of CLIP, before those of T5. */
const CLIP_TOKENS = 77;

/** Changes a JSON file. */
function edit(file: string, change: (json: Record<string, unknown>) => object): void {
  writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>)));
}

/** A copy with zeros in these columns, of these tokens. */
function blanked(x: Tensor, from: number, to: number, tokens?: number): Tensor {
  const copy = x.clone();
  const rows = tokens === undefined ? copy : copy.narrow(1, 0, tokens);
  rows.narrow(-1, from, to - from).zero_();
  return copy;
}

for (const set of goldenSets("transformer", "io.safetensors").filter((each) => each.has("model_index.json"))) {
  describe(`StableDiffusion3Pipeline, golden ${set.name}`, () => {
    const { options } = goldenModel(set);
    const open = (folder = set.folder): StableDiffusion3Pipeline =>
      StableDiffusion3Pipeline.fromPretrained(folder, {}, options);
    const pipeline = open();
    const io = set.tensors("transformer", "io.safetensors");
    const [states, pooled] = [io.get("encoder_hidden_states"), io.get("pooled_projections")];
    const { texts } = set.json<{ texts: string[] }>("tokenizer", "expected.json");
    const prompts = texts.slice(0, states.size(0));
    const copied = (): string => {
      const folder = join(temporaryFolder(), "model");
      cpSync(set.folder, folder, { recursive: true });
      return folder;
    };
    /** The folder without some of the text encoders and their tokenizers. */
    const without = (...absent: readonly string[]): string => {
      const folder = copied();
      const parts = absent.flatMap((suffix) => [`text_encoder${suffix}`, `tokenizer${suffix}`]);
      for (const part of parts) rmSync(join(folder, part), { recursive: true });
      const nothing = Object.fromEntries(parts.map((part) => [part, [null, null]]));
      edit(join(folder, "model_index.json"), (index) => ({ ...index, ...nothing }));
      return folder;
    };
    const closeTo = ({ states: { hiddenStates, pooled: own } }: TextEmbeds, all: Tensor, one: Tensor, what: string) => {
      assertClose(hiddenStates, all, outputTolerance, `${set.name} hidden states ${what}`);
      assertClose(own!, one, outputTolerance, `${set.name} pooled ${what}`);
    };

    test("prompts of three encoders, repeated, and longer than T5 reads", () => {
      tidy(() => {
        closeTo(pipeline.encodePrompts(prompts), states, pooled, "of the texts");
        const rows = tensor([1, 0, 1], { dtype: "int64" });
        const repeated = pipeline.encodePrompts([1, 0, 1].map((row) => prompts[row]!));
        closeTo(repeated, states.indexSelect(0, rows), pooled.indexSelect(0, rows), "of repeated texts");
      });
      const long = "a ".repeat(options["maxSequenceLength"]!);
      assert.deepEqual(
        pipeline.longPrompts([long, "a"]).map(({ prompt, most }) => [prompt, most]),
        [[long, options["maxSequenceLength"]]],
      );
    });

    test("without a text encoder its part is zeros: T5's as long as CLIP's, a CLIP's as wide as its pooled text", () => {
      const of = (folder: string): TextEmbeds => {
        const model = open(folder);
        const embeds = model.encodePrompts(prompts);
        model.dispose();
        return embeds;
      };
      const [first, second] = ["text_encoder", "text_encoder_2"].map((part) => {
        const config = set.json<{ hidden_size: number; projection_dim: number }>(part, "config.json");
        return [config.hidden_size, config.projection_dim] as const;
      }) as [[number, number], [number, number]];
      const [width, features] = [first[0] + second[0], first[1] + second[1]];
      tidy(() => {
        closeTo(of(without("_3")), io.get("encoder_hidden_states_without_t5"), pooled, "without T5");
        const noFirst = blanked(states, 0, first[0], CLIP_TOKENS);
        closeTo(of(without("")), noFirst, blanked(pooled, 0, first[1]), "without the first CLIP");
        const noSecond = blanked(states, first[0], width, CLIP_TOKENS);
        closeTo(of(without("_2")), noSecond, blanked(pooled, first[1], features), "without the second CLIP");
        const neither = blanked(states, 0, width, CLIP_TOKENS);
        closeTo(of(without("", "_2")), neither, blanked(pooled, 0, features), "without both");
      });
    });

    test("a guided trajectory with its log-probabilities and pictures, with a LoRA", () => {
      const { lora_alpha: alpha, lora_rank: rank, ...settings } = set.json<GoldenPolicyUpdate>("lora", "update.json");
      const [lora] = loadLora(pipeline.adaptable, set.path("lora"), { weight: alpha / rank });
      const run = () =>
        tidy(() =>
          noGrad(() => {
            const [embeds, negative] = [pipeline.encodePrompts(prompts.slice(0, 2)), pipeline.encodePrompts(["", ""])];
            const guidance = { guidanceScale: settings.guidance_scale, negative };
            followTrajectory(set, pipeline, pipeline.prepare(embeds, guidance));
            assert.throws(() => pipeline.condition(embeds, { guidanceScale: 2 }), /Expected negative prompts/);
          }),
        );
      run(); // The sinusoids' frequencies stay.
      const before = liveTensors();
      run();
      assert(liveTensors() <= before); // fewer where garbage was collected
      lora!.dispose();
    });

    /** Embeds, a prediction and a picture. */
    const outputs = (model: StableDiffusion3Pipeline): number[][] =>
      tidy(() =>
        inference(() => {
          const [embeds, negative] = [model.encodePrompts(prompts.slice(0, 1)), model.encodePrompts([""])];
          const latents = randn([1, ...model.latentShape({ height: 2 * model.downscale })], {
            generator: new Generator(0),
          });
          const velocity = model.predict(latents, 700.5, model.condition(embeds, { guidanceScale: 3, negative }));
          const { hiddenStates, pooled } = embeds.states;
          return [hiddenStates, pooled!, velocity, model.decode(latents)].map((value) => value.toArray());
        }),
      );

    test("written and read again, to the bit, whatever encoders it has", () => {
      for (const folder of [set.folder, without("_3"), without("")]) {
        const model = open(folder);
        const saved = join(temporaryFolder(), "saved");
        model.savePretrained(saved);
        const again = open(saved);
        assert.deepEqual(outputs(again), outputs(model));
        again.dispose();
        model.dispose();
      }
    });

    test("offload: the VAE waits while others compute, encoders and transformer never meet, to the same bits", () => {
      const device = "cpu:0" as "cpu"; // a device of its own for libtorch's sake, see offload.test.ts
      const model = StableDiffusion3Pipeline.fromPretrained(set.folder, { device, offload: true }, options);
      const moves: string[] = [];
      const move = model.vae.to_.bind(model.vae);
      model.vae.to_ = (to) => {
        moves.push(to);
        return move(to);
      };
      const present = (): string[] => Object.entries(model.modules).flatMap(([name, part]) => (part ? [name] : []));
      const encoders = ["text_encoder", "text_encoder_2", "text_encoder_3"];
      assert.deepEqual(present(), ["vae"]);
      model.encodePrompts(prompts.slice(0, 1)).dispose();
      assert.deepEqual(present(), [...encoders, "vae"]);
      assert.equal(model.denoiser, model.transformer);
      assert.deepEqual(present(), ["transformer", "vae"]);
      // They come again for another prompt, beside the transformer.
      model.encodePrompts(prompts.slice(0, 1)).dispose();
      assert.deepEqual(present(), ["transformer", ...encoders, "vae"]);
      assert.deepEqual(outputs(model), outputs(pipeline));
      assert.deepEqual(present(), ["transformer", "vae"]);
      assert.deepEqual(moves, ["cpu", "cpu:0"]);
      // One that may have been adapted stays as it is.
      const adapted = model.adaptable["text_encoder_2"];
      assert.deepEqual(outputs(model), outputs(pipeline));
      assert.equal(model.modules["text_encoder_2"], adapted);
      assert.deepEqual(present(), ["transformer", "text_encoder_2", "vae"]);
      model.dispose();
    });

    test("offload: a folder whose parts do not fit is refused before weights are read, and bad weights when they are", () => {
      const folder = copied();
      const offloaded = () => StableDiffusion3Pipeline.fromPretrained(folder, { offload: true }, options);
      writeFileSync(join(folder, "text_encoder_3/model.safetensors"), "");
      const live = liveTensors();
      const model = offloaded();
      assert.throws(() => model.encodePrompts(prompts), /text_encoder_3.model\.safetensors: Expected/);
      model.dispose();
      assert(liveTensors() <= live);
      edit(join(folder, "text_encoder_3/config.json"), (json) => ({ ...json, d_model: 8 }));
      assert.throws(offloaded, /Expected \d+, T5's d_model, for joint_attention_dim/);
    });

    test("T5 stays in half precision where its files have it so, to the same bits", () => {
      for (const half of ["float16", "bfloat16"] as const) {
        const folder = copied();
        const t5 = join(folder, "text_encoder_3");
        const stored = T5EncoderModel.fromPretrained(t5, { dtype: half });
        stored.savePretrained(t5);
        const widened = copied();
        const wide = T5EncoderModel.fromPretrained(t5);
        wide.savePretrained(join(widened, "text_encoder_3"));
        for (const part of [stored, wide]) part.dispose();
        const dtypes = (model: StableDiffusion3Pipeline): string[] => [
          ...new Set([...model.modules["text_encoder_3"]!.parameters().values()].map(({ dtype }) => dtype)),
        ];
        const [held, twice] = [open(folder), open(widened)];
        assert.deepEqual([dtypes(held), dtypes(twice)], [[half], ["float32"]]);
        assert.deepEqual(outputs(held), outputs(twice));
        for (const [dtype, expected] of [
          ["float16", half],
          ["bfloat16", "bfloat16"],
        ] as const) {
          const model = StableDiffusion3Pipeline.fromPretrained(folder, { dtype }, options);
          assert.deepEqual(dtypes(model), [expected]);
          model.dispose();
        }
        for (const model of [held, twice]) model.dispose();
      }
    });

    test("sides are multiples of a patch of latents, and at most the table of positions", () => {
      const { downscale, transformer } = pipeline;
      const {
        in_channels: channels,
        sample_size: side,
        patch_size: patch,
        pos_embed_max_size: most,
      } = transformer.config;
      assert.equal(downscale, patch * pipeline.vae.downscale);
      assert.deepEqual(pipeline.latentShape(), [channels, side, side]);
      assert.deepEqual(pipeline.latentShape({ height: 3 * downscale }), [channels, 3 * patch, side]);
      assert.throws(() => pipeline.latentShape({ width: pipeline.vae.downscale }), {
        message: `Expected a positive multiple of ${downscale} for width but received ${pipeline.vae.downscale}`,
      });
      assert.throws(() => pipeline.latentShape({ width: (most + 1) * downscale }), /Expected at most \d+ pixels/);
    });

    test("parts that do not fit, and indexes that name others, are refused with what was expected", () => {
      const live = liveTensors();
      const refused = (part: string, change: object, message: RegExp): void => {
        const folder = copied();
        edit(join(folder, part), (json) => ({ ...json, ...change }));
        assert.throws(() => open(folder), { name: "ModelConfigError", message });
      };
      const index = "model_index.json";
      const absent = { text_encoder: null, text_encoder_2: [null, null], text_encoder_3: null };
      refused(index, absent, /model_index\.json: Expected at least one of three text encoders for text_encoder/);
      refused(index, { text_encoder_3: ["transformers", "UMT5EncoderModel"] }, /Expected a T5EncoderModel or null/);
      refused(index, { tokenizer_2: null }, /Expected a CLIPTokenizer for tokenizer_2 but received null/);
      refused(index, { transformer: ["diffusers", "FluxTransformer2DModel"] }, /Expected an SD3Transformer2DModel/);
      const folder = copied();
      for (const suffix of ["", "_2"]) {
        edit(join(folder, `tokenizer${suffix}/tokenizer_config.json`), (json) => ({ ...json, model_max_length: 80 }));
      }
      assert.throws(() => open(folder), /Expected at most 77, the positions of the text encoder, for model_max_length/);
      const other = without("_2");
      rmSync(join(other, "text_encoder"), { recursive: true });
      cpSync(set.path("text_encoder_2"), join(other, "text_encoder"), { recursive: true });
      const wide = without();
      rmSync(join(wide, "text_encoder"), { recursive: true });
      cpSync(set.path("text_encoder_2"), join(wide, "text_encoder"), { recursive: true });
      assert.throws(() => open(wide), /Expected 48, the pooled text of CLIP, for pooled_projection_dim of the transf/);
      open(other).dispose(); // narrower than the transformer's pooled text, so that the rest is zeros
      assert(liveTensors() <= live);
    });
  });
}
