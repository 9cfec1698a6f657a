/** What is written is read again, bit for bit, for random values: NaN payloads, empty tensors, names in any script. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { presets } from "../src/b2/config/presets.js";
import { readConfigFile, resolveConfig } from "../src/b2/config/resolve.js";
import { readPromptLists } from "../src/b2/rollout/prompts.js";
import { readJsonLines, writeJson, writeJsonLines } from "../src/base/files.js";
import { encodePng, readImage } from "../src/images/index.js";
import { convertLora, readLora, writeLora, type LoraLayer } from "../src/lora/index.js";
import { pickle, unpickle, type Picklable } from "../src/rewards/servers/pickle.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../src/safetensors/index.js";
import { tensor, tensorFromBytes, tidy, type DType, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { Random, TEXTS } from "./support/mutate.js";

const folder = temporaryFolder();
const ROUNDS = 200;

const SIZES: Readonly<Partial<Record<DType, number>>> = {
  ...{ float64: 8, float32: 4, float16: 2, bfloat16: 2, int64: 8, int32: 4, int16: 2, int8: 1, uint8: 1 },
};

/** Any bits, so floats are NaN of any payload, infinite and denormal too. */
const anyBytes = (length: number, random: Random): Uint8Array => Uint8Array.from({ length }, () => random.below(256));

const anyName = (random: Random): string =>
  `${random.pick(TEXTS)}${random.below(1000)}${random.pick(["", "猫", "é", "\u{1f431}"])}`;

function anyTensor(random: Random): Tensor {
  const dtype = random.pick(Object.keys(SIZES) as DType[]);
  const shape = Array.from({ length: random.below(5) }, () => random.below(4));
  const length = shape.reduce((product, size) => product * size, SIZES[dtype]!);
  return tensorFromBytes(anyBytes(length, random), shape, dtype);
}

test("safetensors", () => {
  const random = new Random(1);
  const file = join(folder, "any.safetensors");
  for (let round = 0; round < ROUNDS; round++) {
    tidy(() => {
      const saved = new Map(Array.from({ length: random.below(6) }, () => [anyName(random), anyTensor(random)]));
      const metadata = Object.fromEntries(
        Array.from({ length: random.below(3) }, () => [anyName(random), anyName(random)]),
      );
      saveSafetensors(file, saved, metadata);
      const loaded = loadSafetensors(file);
      assert.deepEqual(readHeader(file).metadata, metadata);
      assert.deepEqual(new Set(loaded.keys()), new Set(saved.keys()));
      for (const [key, value] of saved) {
        const other = loaded.get(key)!;
        assert.deepEqual([other.dtype, other.shape, other.toBytes()], [value.dtype, value.shape, value.toBytes()]);
      }
    });
  }
});

/** Layers that both layouts of LoRA files have names for. */
const LAYERS = [
  "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
  "down_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k",
  "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
  "up_blocks.1.attentions.0.transformer_blocks.0.ff.net.0.proj",
];

function anyLayer(path: string, random: Random): LoraLayer {
  const [rank, inputs, outputs] = [1 + random.below(4), 1 + random.below(5), 1 + random.below(5)];
  const matrix = (shape: [number, number]): Tensor =>
    tensor(
      Float32Array.from({ length: shape[0] * shape[1] }, () => (random.below(2001) - 1000) / 7),
      { shape },
    );
  const alpha = random.pick([rank, 1, 0.5, 16]);
  return { part: "unet", path, a: matrix([rank, inputs]), b: matrix([outputs, rank]), alpha };
}

test("LoRA files in both layouts, and from one to the other", () => {
  const random = new Random(2);
  const [peft, kohya, back] = ["peft", "kohya", "back"].map((name) => join(folder, `${name}.safetensors`)) as [
    string,
    string,
    string,
  ];
  for (let round = 0; round < 50; round++) {
    tidy(() => {
      const layers = LAYERS.filter((_, i) => i === 0 || random.once(2)).map((path) => anyLayer(path, random));
      writeLora(peft, layers);
      writeLora(kohya, layers, { form: "kohya" });
      convertLora(kohya, back, { form: "peft" });
      for (const file of [peft, kohya, back]) {
        const read = new Map(readLora(file).layers.map((layer) => [layer.path, layer]));
        assert.equal(read.size, layers.length);
        for (const { path, a, b, alpha } of layers) {
          const other = read.get(path)!;
          assert.ok(other.a.equal(a) && other.b.equal(b), `${file}: ${path}`);
          assert.equal(other.alpha, alpha);
        }
      }
    });
  }
});

/** Anything that JSON can hold. */
function anyValue(random: Random, depth = 0): unknown {
  const leaves = [null, true, random.below(100), -1.5e-300, 2 ** 53 - 1, anyName(random)];
  if (depth === 3 || random.once(2)) return random.pick(leaves);
  const parts = Array.from({ length: random.below(4) }, () => anyValue(random, depth + 1));
  return random.once(2) ? parts : Object.fromEntries(parts.map((part) => [anyName(random), part]));
}

test("JSON Lines, and prompts with metadata in them", () => {
  const random = new Random(3);
  for (let round = 0; round < ROUNDS; round++) {
    const lines = Array.from({ length: 1 + random.below(5) }, (_, i) => {
      return { prompt: `a cat ${i} 猫`, ["m" + anyName(random)]: anyValue(random) };
    });
    const file = join(folder, "any.jsonl");
    writeJsonLines(file, lines);
    assert.deepEqual(readJsonLines(file), lines);
    const { training, metadata } = readPromptLists({
      prompts: { order: "in-turn", train: file, heldOut: null, fixed: null },
    });
    assert.deepEqual(
      training,
      lines.map(({ prompt }) => prompt),
    );
    for (const { prompt, ...others } of lines) assert.deepEqual(metadata!.get(prompt), others);
  }
});

test("configs, resolved and as files", () => {
  for (const [name, values] of Object.entries(presets)) {
    let config;
    try {
      config = resolveConfig(values);
    } catch {
      continue; // meant to go on top of another
    }
    for (const ending of ["json", "yaml"]) {
      const file = join(folder, `${name}.${ending}`);
      writeJson(file, config); // JSON is YAML
      assert.deepEqual(resolveConfig(readConfigFile(file)), config);
    }
  }
});

/** Plain data that a pickle can hold. */
function anyPicklable(random: Random, depth = 0): Picklable {
  const leaves: Picklable[] = [
    ...[null, true, false, random.below(2 ** 31) - 2 ** 30, 0.1 * random.below(1000), NaN, -Infinity, -0],
    ...[
      BigInt(random.below(2 ** 31)) ** BigInt(2 + random.below(20)),
      anyName(random),
      anyBytes(random.below(300), random),
    ],
  ];
  if (depth === 4 || random.once(3)) return random.pick(leaves);
  const parts = Array.from({ length: random.below(5) }, () => anyPicklable(random, depth + 1));
  return random.once(2) ? parts : Object.fromEntries(parts.map((part) => [anyName(random), part]));
}

/** Dictionaries are read as maps, and whole numbers as numbers where they can be. */
function asRead(value: Picklable): unknown {
  if (typeof value === "bigint") return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return (value as Picklable[]).map(asRead);
  return new Map(Object.entries(value).map(([key, item]) => [key, asRead(item)]));
}

test("pickles", () => {
  const random = new Random(4);
  for (let round = 0; round < ROUNDS; round++) {
    const value = anyPicklable(random);
    assert.deepEqual(unpickle(pickle(value)), asRead(value));
  }
});

test("PNG", async () => {
  const random = new Random(5);
  const file = join(folder, "any.png");
  for (let round = 0; round < 50; round++) {
    const [height, width] = [1 + random.below(9), 1 + random.below(9)];
    const bytes = anyBytes(3 * height * width, random);
    const image = tidy(() =>
      tensor(bytes, { shape: [3, height, width] })
        .to({ dtype: "float32" })
        .div(255),
    );
    writeFileSync(file, encodePng(image));
    const read = await readImage(file);
    assert.deepEqual(read.shape, [3, height, width]);
    assert.ok(read.equal(image));
    image.dispose();
    read.dispose();
  }
});
