/** CLIP's text encoders and CLIPModel against golden vectors. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { CLIPModel, CLIPTextModel, CLIPTextModelWithProjection } from "../src/models/index.js";
import { Generator, liveTensors, noGrad, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { assertClose, goldenSets, outputTolerance, type GoldenSet } from "./support/golden.js";

/** Whether a text encoder is the class with a projection, which both of Stable Diffusion 3's are. */
const isProjected = (set: GoldenSet, part: string): boolean =>
  set
    .json<{ architectures: readonly string[] }>(part, "config.json")
    .architectures.includes("CLIPTextModelWithProjection");

const unit = (x: Tensor) => x.div(x.norm({ dim: -1, keepdim: true }));

for (const set of goldenSets("text_encoder", "io.safetensors").filter((each) => !isProjected(each, "text_encoder"))) {
  test(`CLIPTextModel, golden ${set.name}`, () => {
    const model = CLIPTextModel.fromPretrained(set.path("text_encoder"));
    const io = set.tensors("text_encoder", "io.safetensors");
    const before = liveTensors();
    tidy(() => {
      const output = noGrad(() => model.forward(io.get("input_ids")));
      const close = (actual: Tensor, key: string) =>
        assertClose(actual, io.get(key), outputTolerance, `${set.name} text_encoder ${key}`);
      close(output.lastHiddenState, "last_hidden_state");
      close(output.penultimateHiddenState, "penultimate_hidden_state");
      close(output.poolerOutput, "pooler_output");
    });
    assert(liveTensors() <= before); // fewer where garbage was collected
  });
}

for (const part of ["text_encoder", "text_encoder_2"]) {
  for (const set of goldenSets(part, "io.safetensors").filter((each) => isProjected(each, part))) {
    test(`CLIPTextModelWithProjection, golden ${set.name}, ${part}`, () => {
      const model = CLIPTextModelWithProjection.fromPretrained(set.path(part));
      const io = set.tensors(part, "io.safetensors");
      tidy(() => {
        const output = noGrad(() => model.forward(io.get("input_ids")));
        const close = (actual: Tensor, key: string) =>
          assertClose(actual, io.get(key), outputTolerance, `${set.name} ${part} ${key}`);
        close(output.penultimateHiddenState, "penultimate_hidden_state");
        close(output.textEmbeds, "text_embeds");
      });
    });
  }
}

for (const set of goldenSets("clip", "io.safetensors")) {
  describe(`CLIPModel, golden ${set.name}`, () => {
    test("features and logits", () => {
      const model = CLIPModel.fromPretrained(set.path("clip"));
      const io = set.tensors("clip", "io.safetensors");
      const before = liveTensors();
      tidy(() => {
        const images = noGrad(() => unit(model.getImageFeatures(io.get("pixel_values"))));
        const texts = noGrad(() => unit(model.getTextFeatures(io.get("input_ids"))));
        assertClose(images, io.get("image_embeds"), outputTolerance, `${set.name} image_embeds`);
        assertClose(texts, io.get("text_embeds"), outputTolerance, `${set.name} text_embeds`);
        const logits = images.matmul(texts.transpose(0, 1)).mul(model.logitScale.detach().exp());
        assertClose(logits, io.get("logits_per_image"), outputTolerance, `${set.name} logits_per_image`);
      });
      assert(liveTensors() <= before); // fewer where garbage was collected
    });
  });
}

test("the historical eos_token_id 2 pools at the largest id, any other at its first place", () => {
  const config = { vocab_size: 9, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2 };
  const ids = tensor([[7, 3, 8, 2, 8, 8]], { dtype: "int64" });
  const pooledAt = (eos_token_id: number) =>
    tidy(() => {
      const model = CLIPTextModel.fromConfig({ ...config, eos_token_id }, { generator: new Generator(0) });
      const { lastHiddenState, poolerOutput } = model.forward(ids);
      return tensor([0, 1, 2, 3, 4, 5].map((i) => Number(lastHiddenState.select(1, i).equal(poolerOutput))));
    }).toArray();
  assert.deepEqual(pooledAt(8), [0, 0, 1, 0, 0, 0]);
  assert.deepEqual(pooledAt(2), [0, 0, 1, 0, 0, 0]);
  assert.deepEqual(pooledAt(3), [0, 1, 0, 0, 0, 0]);
});

test("a config that is not honoured is an error that names key and value", () => {
  const build = (config: object) => () => CLIPTextModel.fromConfig(config, { generator: new Generator(0) });
  assert.throws(build({ hidden_act: "relu" }), /for hidden_act but received "relu"/);
  assert.throws(build({ rope_theta: 1e4 }), /Expected no key rope_theta but received 10000/);
});
