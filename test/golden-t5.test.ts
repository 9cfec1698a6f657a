/** T5EncoderModel and its tokenizer against golden vectors of transformers. */
import assert from "node:assert/strict";
import { cpSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { T5EncoderModel } from "../src/models/index.js";
import { bucketOf } from "../src/models/t5-encoder.js";
import { loadSafetensors, saveSafetensors } from "../src/safetensors/index.js";
import { JsonTokenizer } from "../src/tokenizer/index.js";
import { Generator, inference, linear, liveTensors, relu, rmsNorm, tensor, zeros } from "../src/torch/index.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { assertClose, goldenSets, outputTolerance } from "./support/golden.js";

for (const set of goldenSets("text_encoder_3", "io.safetensors")) {
  describe(`T5EncoderModel, golden ${set.name}`, () => {
    const io = set.tensors("text_encoder_3", "io.safetensors");
    const [ids, expected] = [io.get("input_ids"), io.get("last_hidden_state")];
    const folder = set.path("text_encoder_3");

    test("hidden states, of a batch and of each text alone", () => {
      const model = T5EncoderModel.fromPretrained(folder);
      const before = liveTensors();
      inference(() => {
        assertClose(model.forward(ids), expected, outputTolerance, `${set.name} last_hidden_state`);
        const [last] = model.forward(ids.narrow(0, 3, 1)).split(1);
        assertClose(last!, expected.narrow(0, 3, 1), outputTolerance, `${set.name} last_hidden_state of one text`);
      });
      assert(liveTensors() <= before);
      model.dispose();
    });

    test("float16 is computed in float32, bfloat16 as it is", () => {
      for (const [dtype, computed, tolerance] of [
        ["float16", "float32", 5e-3],
        ["bfloat16", "bfloat16", 0.05],
      ] as const) {
        const model = T5EncoderModel.fromPretrained(folder, { dtype });
        inference(() => {
          const states = model.forward(ids);
          assert.equal(states.dtype, computed);
          assertClose(states, expected, tolerance, `${set.name} with weights in ${dtype}`);
        });
        model.dispose();
      }
    });

    test("saved, and files of a whole T5 or with the embeddings' other name, give the same bits", () => {
      const model = T5EncoderModel.fromPretrained(folder);
      const saved = temporaryFolder();
      model.savePretrained(saved);
      const whole = temporaryFolder();
      cpSync(join(folder, "config.json"), join(whole, "config.json"));
      const { "shared.weight": shared, ...rest } = Object.fromEntries(
        loadSafetensors(join(folder, "model.safetensors")),
      );
      const decoder = { "decoder.final_layer_norm.weight": zeros([3]), "lm_head.weight": zeros([3]) };
      saveSafetensors(join(whole, "model.safetensors"), {
        ...rest,
        ...decoder,
        "encoder.embed_tokens.weight": shared!,
      });
      inference(() => {
        const states = model.forward(ids);
        for (const path of [saved, whole]) {
          const again = T5EncoderModel.fromPretrained(path);
          assert(again.forward(ids).equal(states));
          again.dispose();
        }
      });
      model.dispose();
    });
  });
}

for (const set of goldenSets("tokenizer_3", "expected.json")) {
  test(`T5's tokenizer, golden ${set.name}`, () => {
    const tokenizer = JsonTokenizer.fromPretrained(set.path("tokenizer_3"));
    const { texts, input_ids: ids } = set.json<{ texts: string[]; input_ids: number[][] }>(
      "tokenizer_3",
      "expected.json",
    );
    const batch = tokenizer.encodeBatch(texts, tokenizer.modelMaxLength!);
    assert.deepEqual([batch.dtype, ...batch.shape], ["int64", texts.length, tokenizer.modelMaxLength]);
    assert.deepEqual(batch.toArray(), ids.flat());
    batch.dispose();
    // Another length, and what Nmt makes of control characters and rare blanks.
    const [end] = tokenizer.specialIds;
    const short = tokenizer.encodeBatch([texts[0]!, ""], 4);
    assert.deepEqual(short.toArray(), [...ids[0]!.slice(0, 3), end, end, 0, 0, 0]);
    short.dispose();
    assert.deepEqual(tokenizer.encode("a\u0001 \u200b\tcat\uFEFF\u2581"), tokenizer.encode("a cat "));
  });

  test(`a tokenizer without padding is refused where it is needed, golden ${set.name}`, () => {
    const folder = temporaryFolder();
    cpSync(set.path("tokenizer_3", "tokenizer.json"), join(folder, "tokenizer.json"));
    writeFileSync(join(folder, "tokenizer_config.json"), "{}");
    const tokenizer = JsonTokenizer.fromPretrained(folder);
    assert.throws(() => tokenizer.encodeBatch(["a"], 4), /tokenizer\.json: Expected a pad_token .* received none/);
  });
}

test("a saved tokenizer keeps the template of its chats", () => {
  const [from, to] = [temporaryFolder(), temporaryFolder()];
  cpSync(join(fixtures, "sd3/tokenizer_3"), from, { recursive: true });
  JsonTokenizer.fromPretrained(from).savePretrained(to);
  assert(!existsSync(join(to, "chat_template.jinja")));
  writeFileSync(join(from, "chat_template.jinja"), "{{ messages[0].content }}\n");
  JsonTokenizer.fromPretrained(from).savePretrained(to);
  assert.equal(readFileSync(join(to, "chat_template.jinja"), "utf8"), "{{ messages[0].content }}\n");
});

const small = { vocab_size: 9, d_model: 8, d_kv: 3, d_ff: 12, num_layers: 1, num_heads: 2 };

test("the first T5's perceptron: ReLU, without a gate", () => {
  const model = T5EncoderModel.fromConfig(small, { generator: new Generator(0) });
  inference(() => {
    const parameter = (key: string) => model.parameters().get(key)!;
    parameter("encoder.block.0.layer.0.SelfAttention.o.weight").zero_(); // leaves the perceptron alone
    const ids = tensor([[5, 1, 8, 3]], { dtype: "int64" });
    const x = parameter("shared.weight").indexSelect(0, ids.flatten());
    const norm = rmsNorm(x, parameter("encoder.block.0.layer.1.layer_norm.weight"), 1e-6);
    const inner = relu(linear(norm, parameter("encoder.block.0.layer.1.DenseReluDense.wi.weight")));
    const sum = x.add(linear(inner, parameter("encoder.block.0.layer.1.DenseReluDense.wo.weight")));
    const expected = rmsNorm(sum, parameter("encoder.final_layer_norm.weight"), 1e-6).unsqueeze(0);
    assertClose(model.forward(ids), expected, 1e-6, "states");
  });
  model.dispose();
});

test("distances fall into buckets that grow, keys behind the query apart", () => {
  const config = { relative_attention_num_buckets: 32, relative_attention_max_distance: 128 };
  const buckets = (distances: readonly number[]) => distances.map((distance) => bucketOf(distance, config));
  assert.deepEqual(buckets([0, -1, -7, -8, -11, -12, -16, -23, -32, -64, -127, -4000]), [
    0, 1, 7, 8, 8, 9, 10, 11, 12, 14, 15, 15,
  ]); // prettier-ignore
  assert.deepEqual(buckets([1, 7, 8, 90, 91, 128]), [17, 23, 24, 30, 31, 31]);
});

test("a config that is not honoured is an error that names key and value", () => {
  const build = (config: object) => () =>
    T5EncoderModel.fromConfig({ ...small, ...config }, { generator: new Generator(0) });
  assert.throws(build({ feed_forward_proj: "gated-silu" }), /for feed_forward_proj but received "gated-silu"/);
  assert.throws(build({ dense_act_fn: "gelu_new" }), /Expected "relu", as in feed_forward_proj, for dense_act_fn/);
  assert.throws(build({ is_gated_act: true }), /Expected false, as in feed_forward_proj, for is_gated_act/);
  assert.throws(build({ relative_attention_num_buckets: 30 }), /multiple of 4 for relative_attention_num_buckets/);
  assert.throws(build({ relative_attention_max_distance: 8 }), /more than 8, .* for relative_attention_max_distance/);
  assert.throws(build({ model_type: "umt5" }), /for model_type but received "umt5"/);
});
