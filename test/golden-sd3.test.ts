/** SD3Transformer2DModel against golden vectors: outputs, gradients, checkpointing, LoRA, and its files. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, test } from "node:test";
import { LoraAdapter } from "../src/lora/index.js";
import { SD3Transformer2DModel, type SD3Text } from "../src/models/index.js";
import { loadSafetensors } from "../src/safetensors/index.js";
import {
  Generator,
  liveTensors,
  nativeBytes,
  noGrad,
  peakNativeBytes,
  randn,
  tidy,
  type Tensor,
} from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import {
  assertClose,
  goldenSets,
  gradientTolerance,
  outputTolerance,
  type GoldenTensors,
  type GoldenUpdate,
} from "./support/golden.js";

/** The text of `rows` rows of a golden set. */
const textOf = (
  io: GoldenTensors,
  rows: number,
  { from = 0, states = "encoder_hidden_states" }: { from?: number; states?: string } = {},
): SD3Text => ({
  encoderHiddenStates: io.get(states).narrow(0, from, rows),
  pooledProjections: io.get("pooled_projections").narrow(0, from, rows),
});

/** The output for the first inputs of a golden set. */
const forwardOf = (model: SD3Transformer2DModel, io: GoldenTensors, sample = io.get("hidden_states")): Tensor =>
  model.forward(sample, io.get("timestep"), textOf(io, sample.size(0)));

for (const set of goldenSets("transformer", "io.safetensors")) {
  describe(`SD3Transformer2DModel, golden ${set.name}`, () => {
    const io = set.tensors("transformer", "io.safetensors");
    const model = SD3Transformer2DModel.fromPretrained(set.path("transformer"));
    const rows = io.get("hidden_states").size(0);
    const forward = (of = model, sample?: Tensor): Tensor => forwardOf(of, io, sample);
    test("outputs", () => {
      const before = liveTensors();
      tidy(() =>
        noGrad(() => {
          const sample = io.get("hidden_states");
          assertClose(forward(), io.get("output"), outputTolerance, `${set.name} output`);
          const [one, each] = [500, Array<number>(rows).fill(500)].map((t) =>
            model.forward(sample, t, textOf(io, rows)),
          );
          assertClose(one!, each!, outputTolerance, `${set.name} one timestep for all rows`);
          const others = io.find("hidden_states_rect");
          if (others === undefined) return;
          const rect = model.forward(others, io.get("timestep_rect"), textOf(io, others.size(0), { from: 1 }));
          assertClose(rect, io.get("output_rect"), outputTolerance, `${set.name} output_rect`);
          const clip = textOf(io, rows, { states: "encoder_hidden_states_without_t5" });
          const short = model.forward(sample, io.get("timestep"), clip);
          assertClose(short, io.get("output_without_t5"), outputTolerance, `${set.name} output_without_t5`);
        }),
      );
      assert(liveTensors() - before <= 1); // the sinusoids' frequencies stay
    });

    for (const checkpoints of [false, true]) {
      test(`gradients of all weights${checkpoints ? ", recomputed block by block" : ""}`, () => {
        model.gradientCheckpointing = checkpoints;
        const sample = io.get("hidden_states").clone().requiresGrad_();
        model.requiresGrad_();
        const before = liveTensors();
        tidy(() => forward(model, sample).backward(io.get("grad_output")));
        assert(liveTensors() <= before);
        const close = (grad: Tensor | null, key: string, what: string): void =>
          assertClose(grad!, io.get(key), gradientTolerance, `${set.name} gradient of ${what}`);
        close(sample.grad, "grad_hidden_states", "the sample");
        const parameters = model.parameters();
        for (const key of io.under("grad.").keys()) close(parameters.get(key)!.grad, `grad.${key}`, key);
        // The table of positions is a buffer: it does not learn. Every other parameter does.
        const still = [...parameters].filter(([, parameter]) => parameter.grad === null).map(([key]) => key);
        assert.deepEqual(still, ["pos_embed.pos_embed"]);
        for (const parameter of parameters.values()) parameter.grad = null;
        model.requiresGrad_(false);
        model.gradientCheckpointing = false;
      });
    }

    test("saved and loaded again, to the bit", () => {
      const folder = temporaryFolder();
      model.savePretrained(folder);
      const again = SD3Transformer2DModel.fromPretrained(folder);
      tidy(() => noGrad(() => assert(forward(again).equal(forward()))));
      again.dispose();
    });

    test("a fresh model has the table of positions that diffusers stores", () => {
      const fresh = SD3Transformer2DModel.fromConfig(model.config, { generator: new Generator(0) });
      const [table, golden] = [fresh, model].map((each) => each.parameters().get("pos_embed.pos_embed")!);
      assertClose(table!, golden!, 1e-6, `${set.name} table of positions`);
      fresh.dispose();
    });

    test("in bfloat16 within its rounding", () => {
      const half = SD3Transformer2DModel.fromPretrained(set.path("transformer"), { dtype: "bfloat16" });
      tidy(() =>
        noGrad(() => {
          const output = forward(half, io.get("hidden_states").to({ dtype: "bfloat16" }));
          assert.equal(output.dtype, "bfloat16");
          assertClose(output, io.get("output"), 0.05, `${set.name} output in bfloat16`);
        }),
      );
      half.dispose();
    });

    test("latents that have no place in the table, and texts of other batches, are refused", () => {
      const { pos_embed_max_size: most, patch_size: patch, in_channels: channels } = model.config;
      const run = (shape: readonly number[], rows = shape[0]!) =>
        tidy(() => model.forward(randn(shape, { generator: new Generator(0) }), 500, textOf(io, rows)));
      const wide = [1, channels, patch, patch * (most + 1)];
      assert.throws(() => run(wide), new RegExp(`at most ${patch * most}, for latents but received \\[1, ${channels}`));
      assert.throws(() => run([1, channels, patch + 1, patch]), /multiples of \d+, at most \d+, for latents/);
      assert.throws(() => run([1, channels + 1, patch, patch]), /for latents but received/);
      assert.throws(() => run([2, channels, patch, patch], 1), /Expected 2 rows, as in the sample, for encoderHidden/);
    });
  });
}

for (const set of goldenSets("transformer", "io.safetensors").filter((each) => each.has("lora"))) {
  describe(`SD3Transformer2DModel with LoRA, golden ${set.name}`, () => {
    const io = set.tensors("transformer", "io.safetensors");
    const model = SD3Transformer2DModel.fromPretrained(set.path("transformer"));
    const settings = set.json<GoldenUpdate & { readonly target_modules: string[] }>("lora", "update.json");
    const withLora = set.tensors("lora", "io_trajectory.safetensors").get("transformer_output_with_lora");
    const forward = (of = model): Tensor => forwardOf(of, io);
    /** The golden LoRA, whose file does not say its alpha. */
    const attach = (to: SD3Transformer2DModel): LoraAdapter => {
      const lora = LoraAdapter.fromPretrained(to, set.path("lora"), { part: "transformer" });
      lora.weight = settings.lora_alpha / settings.lora_rank;
      return lora;
    };

    test("a LoRA of both streams: from a file, off, merged, and written again", () => {
      const lora = attach(model);
      const folder = temporaryFolder();
      tidy(() =>
        noGrad(() => {
          assertClose(forward(), withLora, outputTolerance, `${set.name} output with LoRA`);
          lora.enabled = false;
          assertClose(forward(), io.get("output"), outputTolerance, `${set.name} output with LoRA off`);
          const merged = SD3Transformer2DModel.fromPretrained(set.path("transformer"));
          attach(merged).merge();
          assertClose(forward(merged), withLora, outputTolerance, `${set.name} output with LoRA merged`);
          merged.dispose();
          lora.save(folder);
          const written = loadSafetensors(join(folder, "pytorch_lora_weights.safetensors"));
          const read = loadSafetensors(set.path("lora", "pytorch_lora_weights.safetensors"));
          assert.deepEqual([...written.keys()].sort(), [...read.keys()].sort());
          for (const [key, value] of read) assert(value.equal(written.get(key)!), key);
        }),
      );
      lora.dispose();
    });

    test("a LoRA is injected into the golden layers, and learns with checkpointing as without", () => {
      const { target_modules: targetModules, lora_rank: rank } = settings;
      const lora = LoraAdapter.inject(model, {
        generator: new Generator(0),
        rank,
        targetModules,
        part: "transformer",
      });
      const golden = set.tensors("lora", "pytorch_lora_weights.safetensors").under("transformer.");
      assert.deepEqual([...lora.parameters.keys()].sort(), [...golden.keys()].sort());
      const gradients = (checkpoints: boolean): Tensor[] => {
        model.gradientCheckpointing = checkpoints;
        tidy(() => forward().square().mean().backward());
        return [...lora.parameters.values()].map((parameter) => {
          const { grad } = parameter;
          parameter.grad = null;
          return grad!;
        });
      };
      noGrad(() => {
        for (const [key, value] of golden) lora.parameters.get(key)!.copy_(value);
      });
      tidy(() => {
        const [plain, again] = [gradients(false), gradients(true)];
        plain.forEach((grad, i) => assertClose(again[i]!, grad, 1e-5, [...golden.keys()][i]!));
      });
      model.gradientCheckpointing = false;
      lora.dispose();
    });
  });
}

/** Of Stable Diffusion 3.0's kind: no norms of queries and keys, no dual attention. */
const small = {
  in_channels: 4,
  out_channels: null,
  num_layers: 6,
  num_attention_heads: 2,
  attention_head_dim: 16,
  caption_projection_dim: 32,
  joint_attention_dim: 8,
  pooled_projection_dim: 6,
  pos_embed_max_size: 16,
  sample_size: 16,
};

test("the config decides which of diffusers' parameters there are", () => {
  const keys = (config: object): string[] => {
    const model = SD3Transformer2DModel.fromConfig({ ...small, ...config }, { generator: new Generator(0) });
    const all = [...model.parameters().keys()];
    model.dispose();
    return all;
  };
  const plain = keys({});
  assert(!plain.some((key) => /norm_q|norm_added_k|attn2|blocks\.5\.(ff_context|attn\.to_add_out)/.test(key)));
  assert(plain.includes("transformer_blocks.4.attn.to_add_out.weight"));
  const added = (config: object) => keys(config).filter((key) => !plain.includes(key));
  const norms = added({ qk_norm: "rms_norm" });
  assert.equal(norms.length, 6 * 4);
  assert(norms.includes("transformer_blocks.5.attn.norm_added_q.weight"));
  assert.deepEqual([...new Set(added({ dual_attention_layers: [0, 2] }).map((key) => key.slice(0, 26)))].sort(), [
    "transformer_blocks.0.attn2",
    "transformer_blocks.2.attn2",
  ]);
});

test("checkpointing takes less memory", () => {
  const generator = new Generator(0);
  const model = SD3Transformer2DModel.fromConfig(small, { generator });
  const lora = LoraAdapter.inject(model, { generator, targetModules: ["attn.to_q", "attn.add_k_proj"] });
  const sample = randn([2, 4, 32, 32], { generator });
  const text = {
    encoderHiddenStates: randn([2, 40, 8], { generator }),
    pooledProjections: randn([2, 6], { generator }),
  };
  const peak = (checkpointing: boolean): number => {
    model.gradientCheckpointing = checkpointing;
    const before = nativeBytes();
    const highest = peakNativeBytes(() => {
      tidy(() => model.forward(sample, [10, 900], text).square().mean().backward());
      for (const parameter of lora.parameters.values()) parameter.grad = null;
    });
    return highest - before;
  };
  const [plain, again] = [peak(false), peak(true)];
  assert(again < plain / 2, `${plain} bytes, with checkpointing ${again}`);
  lora.dispose();
  model.dispose();
});

test("a config that is not honoured is an error that names key and value", () => {
  const build = (config: object) => () =>
    SD3Transformer2DModel.fromConfig({ ...small, ...config }, { generator: new Generator(0) });
  assert.throws(build({ qk_norm: "layer_norm" }), /for qk_norm but received "layer_norm"/);
  assert.throws(build({ caption_projection_dim: 64 }), /Expected 32, .* for caption_projection_dim but received 64/);
  assert.throws(build({ dual_attention_layers: [1, 6] }), /less than num_layers, 6, for dual_attention_layers .* 6/);
  assert.throws(build({ sample_size: 1 }), /Expected at least 2, the patch_size, for sample_size but received 1/);
  assert.throws(build({ pos_embed_max_size: null }), /for pos_embed_max_size but received null/);
  assert.throws(build({ num_attention_heads: 1, attention_head_dim: 6, caption_projection_dim: 6 }), /multiple of 4/);
  assert.throws(build({ guidance_embeds: true }), /Expected no key guidance_embeds but received true/);
});
