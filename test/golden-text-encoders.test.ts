/** RoBERTa, DeBERTa, their tokenizers and BERTScore against golden vectors of transformers and the bert-score package. */
import assert from "node:assert/strict";
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { DebertaModel, RobertaModel } from "../src/models/index.js";
import { bertScoreOf, idfWeights, plainWeights, TokenMatcher } from "../src/rewards/index.js";
import { loadSafetensors, saveSafetensors } from "../src/safetensors/index.js";
import { JsonTokenizer } from "../src/tokenizer/index.js";
import { Generator, inference, liveTensors, tensor, zeros, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import {
  assertClose,
  goldenSets,
  outputTolerance,
  relativeError,
  type GoldenSet,
  type GoldenTensors,
} from "./support/golden.js";

interface Expected {
  /** Reference and candidate of each. */
  readonly pairs: readonly (readonly [string, string])[];
  readonly layer: number;
}

const load = {
  roberta: (folder: string) => RobertaModel.fromPretrained(folder),
  deberta: (folder: string) => DebertaModel.fromPretrained(folder),
} as const;

const kinds = ["roberta", "deberta"] as const;
const sets = kinds.flatMap((kind) =>
  goldenSets(kind, "io.safetensors").map((set) => [kind, set, `${kind}, golden ${set.name}`] as const),
);

/** Golden states, [B, N, hidden] of each layer. */
const statesOf = (io: GoldenTensors, depth: number): Tensor[] =>
  Array.from({ length: depth + 1 }, (_, layer) => io.get(`candidate_hidden_${layer}`));

/** The ids of each text of a padded batch. */
function idsOf(io: GoldenTensors, side: "candidate" | "reference"): number[][] {
  const [ids, mask] = [io.get(`${side}_ids`), io.get(`${side}_mask`)];
  const width = ids.size(1);
  const [flat, kept] = [ids.toArray(), mask.toArray()];
  return Array.from({ length: ids.size(0) }, (_, row) =>
    flat.slice(row * width, (row + 1) * width).filter((_, i) => kept[row * width + i] === 1),
  );
}

for (const [kind, set, title] of sets) {
  describe(title, () => {
    const io = set.tensors(kind, "io.safetensors");
    const { pairs, layer } = set.json<Expected>(kind, "expected.json");

    test("the states of every layer, of a padded batch and of each text alone", () => {
      const model = load[kind](set.path(kind));
      const expected = statesOf(io, model.config.num_hidden_layers);
      const live = liveTensors();
      inference(() => {
        const mask = io.get("candidate_mask").ne(0);
        const states = model.forward(io.get("candidate_ids"), { mask });
        assert.equal(states.length, expected.length);
        const kept = mask.unsqueeze(-1).to({ dtype: "float32" });
        states.forEach((state, i) =>
          assertClose(state.mul(kept), expected[i]!.mul(kept), outputTolerance, `${title}, layer ${i}`),
        );
        idsOf(io, "candidate").forEach((ids, row) => {
          const alone = model.forward(tensor([ids], { dtype: "int64" }));
          alone.forEach((state, i) => {
            const golden = expected[i]!.narrow(0, row, 1).narrow(1, 0, ids.length);
            assertClose(state, golden, outputTolerance, `${title}, layer ${i}, text ${row}`);
          });
        });
      });
      assert(liveTensors() <= live);
      model.dispose();
    });

    test("a caller that needs some layers has the same bits of them", () => {
      const model = load[kind](set.path(kind));
      inference(() => {
        const ids = io.get("reference_ids").narrow(0, 2, 1);
        const [all, first] = [model.forward(ids), model.forward(ids, { layers: 2 })];
        assert.equal(first.length, 3);
        first.forEach((state, i) => assert(state.equal(all[i]!)));
        assert.throws(
          () => model.forward(ids, { layers: all.length }),
          /Expected a whole number from 0 to \d+ for layers/,
        );
      });
      model.dispose();
    });

    test("checkpoints with a head have a prefix, and the head is ignored", () => {
      const folder = withHead(kind, set);
      const [bare, headed] = [load[kind](set.path(kind)), load[kind](folder)];
      inference(() => {
        const ids = io.get("reference_ids").narrow(0, 2, 1);
        assert(headed.forward(ids).at(-1)!.equal(bare.forward(ids).at(-1)!));
      });
      for (const model of [bare, headed]) model.dispose();
    });

    test("the tokenizer gives the ids of transformers, and cuts long texts off", () => {
      const tokenizer = JsonTokenizer.fromPretrained(set.path(kind));
      const encode = (side: 0 | 1) => pairs.map((pair) => tokenizer.encode(pair[side]));
      assert.deepEqual(encode(0), idsOf(io, "reference"));
      assert.deepEqual(encode(1), idsOf(io, "candidate"));
      const { modelMaxLength: longest } = tokenizer;
      const [begin, end] = tokenizer.specialIds;
      const long = "a cat and a dog ".repeat(longest!);
      const cut = tokenizer.encode(long);
      assert.deepEqual(cut, [begin, ...tokenizer.tokenize(long).slice(0, longest! - 2), end]);
    });

    test("BERTScore, with and without idf", () => {
      const live = liveTensors();
      const matcher = TokenMatcher.fromPretrained(set.path(kind), { layer });
      const idf = idfWeights(pairs.map(([reference]) => matcher.ids(reference)));
      for (const [key, weights] of [["prf", plainWeights(matcher.specialIds)] as const, ["prf_idf", idf] as const]) {
        const golden = io.get(key).toNestedArray() as number[][];
        pairs.forEach(([reference, candidate], i) => {
          const { precision, recall, f1 } = bertScoreOf(matcher.match(candidate, reference), weights);
          [precision, recall, f1].forEach((value, k) => {
            const off = Math.abs(value - golden[i]![k]!);
            assert(off <= 1e-5, `${title}, ${key}, pair ${i}: ${value} in place of ${golden[i]![k]}`);
          });
        });
      }
      matcher.dispose();
      assert(liveTensors() <= live);
    });

    test("in bfloat16 the scores are near those of float32", () => {
      const matcher = TokenMatcher.fromPretrained(set.path(kind), { layer, dtype: "bfloat16" });
      const golden = io.get("prf").toNestedArray() as number[][];
      const weights = plainWeights(matcher.specialIds);
      pairs.forEach(([reference, candidate], i) => {
        const { f1 } = bertScoreOf(matcher.match(candidate, reference), weights);
        assert(Math.abs(f1 - golden[i]![2]!) < 0.01, `${title}, pair ${i}: ${f1}`);
      });
      matcher.dispose();
    });

    test("a text's score does not depend on what was scored before", () => {
      const matcher = TokenMatcher.fromPretrained(set.path(kind), { layer });
      const scores = () => pairs.map(([reference, candidate]) => matcher.match(candidate, reference));
      const before = scores();
      assert.deepEqual(scores(), before);
      const fresh = TokenMatcher.fromPretrained(set.path(kind), { layer });
      const backwards = pairs.toReversed().map(([reference, candidate]) => fresh.match(candidate, reference));
      assert.deepEqual(backwards.toReversed(), before);
      for (const one of [matcher, fresh]) one.dispose();
    });
  });
}

/** A copy of a set whose keys have the prefix that transformers gives an encoder with a head, and the head's own keys. */
function withHead(kind: (typeof kinds)[number], set: GoldenSet): string {
  const folder = temporaryFolder();
  cpSync(set.path(kind), folder, { recursive: true });
  const tensors = loadSafetensors(set.path(kind, "model.safetensors"));
  const renamed = [...tensors].map(([key, value]) => [`${kind}.${key}`, value] as const);
  const head = ["classifier.dense.weight", "lm_head.bias", `${kind}.embeddings.position_ids`].map(
    (key) => [key, zeros([3])] as const,
  );
  saveSafetensors(join(folder, "model.safetensors"), new Map([...renamed, ...head]));
  return folder;
}

describe("configs of text encoders", () => {
  const small = { vocab_size: 9, hidden_size: 8, intermediate_size: 8, num_hidden_layers: 1, num_attention_heads: 2 };
  const generator = new Generator(0);

  test("what is not supported is an error that names key and value", () => {
    const roberta = (config: object) => () => RobertaModel.fromConfig({ ...small, ...config }, { generator });
    const deberta = (config: object) => () =>
      DebertaModel.fromConfig(
        { ...small, relative_attention: true, pos_att_type: "c2p|p2c", ...config },
        { generator },
      );
    assert.throws(roberta({ hidden_act: "relu" }), /for hidden_act but received "relu"/);
    assert.throws(roberta({ position_embedding_type: "relative_key" }), /for position_embedding_type but received/);
    assert.throws(
      roberta({ num_attention_heads: 3 }),
      /Expected a multiple of num_attention_heads, 3, for hidden_size/,
    );
    assert.throws(deberta({ model_type: "deberta-v2" }), /for model_type but received "deberta-v2"/);
    assert.throws(deberta({ relative_attention: false }), /for relative_attention but received false/);
    assert.throws(deberta({ pos_att_type: ["p2p"] }), /for pos_att_type.* but received/);
    assert.throws(deberta({ talking_head: true }), /for talking_head but received true/);
    assert.throws(deberta({ embedding_size: 4 }), /Expected hidden_size, 8, for embedding_size but received 4/);
  });

  test("DeBERTa's distances beyond the farthest count as the farthest", () => {
    const config = {
      ...small,
      relative_attention: true,
      pos_att_type: ["c2p", "p2c"],
      max_position_embeddings: 16,
      initializer_range: 1,
    };
    const near = DebertaModel.fromConfig({ ...config, max_relative_positions: 2 }, { generator });
    const far = DebertaModel.fromConfig(config, { generator });
    inference(() => {
      const rows = near.parameters().get("deberta.encoder.rel_embeddings.weight")!; // of -2, -1, 0 and 1
      for (const [key, parameter] of far.parameters()) {
        if (key !== "deberta.encoder.rel_embeddings.weight") parameter.copy_(near.parameters().get(key)!);
        else for (let row = 0; row < 32; row++) parameter.select(0, row).copy_(rows.select(0, clamp(row - 16 + 2)));
      }
      const ids = tensor([[5, 1, 8, 3, 3, 7, 2, 6, 4]], { dtype: "int64" });
      const [one, other] = [near.forward(ids).at(-1)!, far.forward(ids).at(-1)!];
      assertClose(one, other, 1e-6, "states");
      rows.select(0, 3).add_(1);
      assert(relativeError(near.forward(ids).at(-1)!, other) > 1e-3);
    });
    for (const model of [near, far]) model.dispose();
  });
});

/** The row of a distance in a table of four. */
const clamp = (row: number): number => Math.min(3, Math.max(0, row));

describe("what is wrong with a folder is said with its file", () => {
  const [kind, set] = sets[0]!;
  const broken = (change: (folder: string) => void): (() => TokenMatcher) => {
    const folder = temporaryFolder();
    for (const file of ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]) {
      cpSync(set.path(kind, file), join(folder, file));
    }
    change(folder);
    return () => TokenMatcher.fromPretrained(folder, { layer: 1 });
  };
  const file = (name: string, text: string) => (folder: string) => writeFileSync(join(folder, name), text);
  const edited = (name: string, edit: (json: Record<string, unknown>) => void) => (folder: string) => {
    const json = set.json<Record<string, unknown>>(kind, name);
    edit(json);
    writeFileSync(join(folder, name), JSON.stringify(json));
  };
  const cases: [string, (folder: string) => void, RegExp][] = [
    ["no JSON", file("tokenizer.json", "{"), /tokenizer\.json: Expected JSON but received/],
    ["no tokenizer", file("tokenizer.json", "{}"), /tokenizer\.json: Expected a file of the tokenizers library but/],
    [
      "an unknown kind of tokenizer",
      edited("tokenizer.json", (json) => (json["pre_tokenizer"] = { type: "Guess" })),
      /tokenizer\.json: Expected a file of the tokenizers library but .*Guess/,
    ],
    [
      "no special tokens around a text's",
      edited("tokenizer.json", (json) => ((json["model"] as { vocab: object }).vocab = {})),
      /tokenizer\.json: Expected /,
    ],
    [
      "a length that is none",
      edited("tokenizer_config.json", (json) => (json["model_max_length"] = 2.5)),
      /tokenizer_config\.json: Expected a whole number from 3 up for model_max_length but received 2\.5/,
    ],
    [
      "another kind of model",
      edited("config.json", (json) => (json["model_type"] = "bert")),
      /config\.json: Expected roberta or deberta for model_type but received "bert"/,
    ],
    [
      "fewer words than the tokenizer has",
      edited("config.json", (json) => (json["vocab_size"] = 100)),
      /config\.json: Expected ids of the tokenizer below vocab_size, 100, but received up to 406/,
    ],
    [
      "fewer layers than are asked for",
      edited("config.json", (json) => (json["num_hidden_layers"] = 1)),
      /model\.safetensors: .*encoder\.layer\.1/s,
    ],
  ];
  for (const [title, change, error] of cases) {
    test(title, () => {
      const live = liveTensors();
      assert.throws(broken(change), error);
      assert(liveTensors() <= live);
    });
  }
  test("no tokenizer.json", () => {
    const load = () => JsonTokenizer.fromPretrained(temporaryFolder());
    assert.throws(load, /Expected tokenizer\.json in .* but received a folder without it\. .*AutoTokenizer/);
  });
  test("a layer that the model does not have", () => {
    const load = () => TokenMatcher.fromPretrained(set.path(kind), { layer: 5 });
    assert.throws(load, /config\.json: Expected at most num_hidden_layers, 4, for layer but received 5/);
  });
});
