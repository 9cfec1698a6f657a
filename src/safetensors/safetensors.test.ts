/** What a safetensors file may get wrong, one by one; and round trips. */
import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.js";
import { liveTensors, tensor, zeros, type DType, type Tensor } from "../torch/index.js";
import {
  checkTensors,
  Dimension,
  loadSafetensors,
  readHeader,
  SafetensorsError,
  SafetensorsFile,
  saveSafetensors,
  type ExpectedTensor,
} from "./index.js";

const folder = temporaryFolder();
let files = 0;

/** A file of this header (JSON or text) and so many bytes of data. */
function write(header: unknown, dataBytes = 0, length?: bigint): string {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header));
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length ?? BigInt(json.length));
  const file = join(folder, `${files++}.safetensors`);
  writeFileSync(file, Buffer.concat([prefix, json, Buffer.alloc(dataBytes)]));
  return file;
}

const entry = (from: number, to: number, shape = [(to - from) / 4], dtype = "F32") => ({
  dtype,
  shape,
  data_offsets: [from, to],
});

function assertRefused(file: string, problem: RegExp, key?: string): void {
  assert.throws(
    () => readHeader(file),
    (error) => {
      assert(error instanceof SafetensorsError);
      assert.equal(error.file, file);
      assert.equal(error.key, key);
      assert.match(error.message, problem);
      assert(error.message.startsWith(file));
      return true;
    },
  );
}

describe("a safetensors header is refused when", () => {
  test("the file is missing, a folder, or too short", () => {
    assertRefused(join(folder, "none"), /readable file/);
    assertRefused(folder, /Expected a file|readable file/);
    const short = join(folder, "short");
    writeFileSync(short, "1234");
    assertRefused(short, /at least 8 bytes but received 4/);
  });
  test("its length is huge, or beyond the file", () => {
    assertRefused(write({}, 0, 2n ** 63n), /at most 100000000 bytes/);
    assertRefused(write({}, 0, 1000n), /truncated/);
  });
  test("it is not JSON, not UTF-8, or no object", () => {
    assertRefused(write("{oops"), /JSON for the header/);
    assertRefused(write("[1]"), /JSON object/);
    const file = join(folder, "latin1");
    writeFileSync(file, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0, 0xff]));
    assertRefused(file, /JSON for the header/);
  });
  test("the data is truncated", () => {
    assertRefused(write({ a: entry(0, 8), b: entry(8, 16) }, 12), /within the file's 12 bytes of data/, "b");
  });
  test("offsets lie", () => {
    assertRefused(write({ a: entry(8, 0, [2]) }, 8), /data_offsets/, "a");
    assertRefused(write({ a: { ...entry(0, 8), data_offsets: [-4, 4] } }, 8), /two natural numbers/, "a");
    assertRefused(write({ a: { ...entry(0, 8), data_offsets: [0, 2 ** 60] } }, 8), /data_offsets/, "a");
    assertRefused(write({ a: entry(0, 8, [3]) }, 8), /12 bytes \(F32 \[3\]\)/, "a");
  });
  test("tensors overlap", () => {
    assertRefused(write({ a: entry(0, 8), b: entry(4, 12) }, 12), /overlap/, "b");
  });
  test("there are holes", () => {
    assertRefused(write({ a: entry(0, 8), b: entry(12, 16) }, 16), /a hole/, "b");
    assertRefused(write({ a: entry(0, 8) }, 16), /to end at byte/);
  });
  test("a dtype or a shape is none", () => {
    assertRefused(write({ a: entry(0, 8, [2], "F31") }, 8), /dtype but received "F31"/, "a");
    assertRefused(write({ a: { ...entry(0, 8), shape: [-2] } }, 8), /shape but received \[-2\]/, "a");
    assertRefused(write({ a: { ...entry(0, 8), shape: "2" } }, 8), /shape/, "a");
    assertRefused(write({ a: 1 }), /entry/, "a");
  });
  test("its metadata is not text", () => {
    assertRefused(write({ __metadata__: { a: 1 } }), /strings for __metadata__/);
  });
});

describe("a check of tensors", () => {
  const [m, s] = [new Dimension("m"), new Dimension("s")];
  const expected: Record<string, ExpectedTensor> = {
    log_probs: { dtype: "float32", shape: [m, s] },
    latents: { dtype: "float32", shape: [m, s.plus(1), 4] },
    steps: { dtype: "int64", shape: [s] },
    weight: { shape: [2] },
  };
  const fitting = (): Map<string, Tensor> =>
    new Map([
      ["log_probs", zeros([2, 3])],
      ["latents", zeros([2, 4, 4])],
      ["steps", tensor([1, 2, 3], { dtype: "int64" })],
      ["weight", zeros([2], { dtype: "float16" })],
    ]);
  const check = (tensors: Map<string, Tensor>) => checkTensors("file", tensors, expected, "such tensors");

  test("lets dimensions of one name be any number, but the same", () => {
    check(fitting());
    check(
      fitting()
        .set("log_probs", zeros([0, 3]))
        .set("latents", zeros([0, 4, 4])),
    );
  });

  test("names all that differs at once", () => {
    const tensors = fitting()
      .set("latents", zeros([2, 3, 4]))
      .set("steps", tensor([1, 2, 3]))
      .set("weight", tensor([1, NaN]))
      .set("__proto__", zeros([1]));
    tensors.delete("log_probs");
    assert.throws(() => check(tensors), {
      name: "SafetensorsError",
      message: [
        "file: Expected such tensors but received 4 that differ:",
        "log_probs: Expected float32 [m, s] but received nothing",
        "steps: Expected int64 [s] with s = 2 but received float32 [3]",
        "weight: Expected finite numbers but received NaN or infinity",
        "__proto__: Expected no such key",
      ].join("\n  "),
    });
    const whole = fitting()
      .set("weight", zeros([2], { dtype: "int64" }))
      .set("latents", zeros([2, 3, 4]));
    assert.throws(
      () => check(whole),
      /latents: Expected float32 \[m, s \+ 1, 4\] with m = 2, s = 3 but .* \[2, 3, 4\]\n {2}weight: Expected floating point .* int64/,
    );
  });
});

describe("safetensors files", () => {
  test("give back what was saved, of every dtype", () => {
    const file = join(folder, "all.safetensors");
    const dtypes: DType[] = [
      "float64",
      "float32",
      "float16",
      "bfloat16",
      "int64",
      "int32",
      "int16",
      "int8",
      "uint8",
      "bool",
    ];
    const saved = new Map(
      dtypes.map((dtype) => [
        dtype as string,
        tensor([
          [1, 0, 3],
          [4, 5, 6],
        ]).to({ dtype }),
      ]),
    );
    saved
      .set("scalar", tensor(7))
      .set("empty", zeros([0, 3]))
      .set(
        "turned",
        tensor([
          [1, 2],
          [3, 4],
        ]).transpose(0, 1),
      );
    saveSafetensors(file, saved, { format: "pt" });
    const loaded = loadSafetensors(file);
    assert.deepEqual([...loaded.keys()].sort(), [...saved.keys()].sort());
    for (const [key, value] of saved) {
      const other = loaded.get(key)!;
      assert.deepEqual([other.dtype, other.shape], [value.dtype, value.shape], key);
      assert(other.equal(value), key);
    }
    assert.deepEqual(readHeader(file).metadata, { format: "pt" });
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.endsWith(".tmp")),
      [],
    );
  });

  test("are converted on the way in", () => {
    const file = join(folder, "convert.safetensors");
    saveSafetensors(file, { w: tensor([1, 2, 3, 4, 5, 6, 7, 8], { shape: [1, 2, 2, 2], dtype: "float16" }) });
    const [w] = [...loadSafetensors(file, { dtype: "float32", memoryFormat: "channelsLast" }).values()];
    assert.equal(w!.dtype, "float32");
    assert.deepEqual(w!.strides, [8, 1, 4, 2]);
    assert.deepEqual(w!.toArray(), [1, 2, 3, 4, 5, 6, 7, 8]);
  });

  test("may hold data that is not aligned to its elements", () => {
    const file = write({ a: { dtype: "U8", shape: [1], data_offsets: [0, 1] }, b: entry(1, 9) }, 9);
    assert.deepEqual(loadSafetensors(file).get("b")!.toArray(), [0, 0]);
  });

  test("are left alone by writes to what was read", () => {
    const file = join(folder, "private.safetensors");
    saveSafetensors(file, { a: tensor([1, 2]) });
    loadSafetensors(file).get("a")!.mul_(10);
    assert.deepEqual(loadSafetensors(file).get("a")!.toArray(), [1, 2]);
  });

  test("name the key that is not there, or that libtorch has no dtype for", () => {
    const file = write({ a: entry(0, 8, [8], "F8_E4M3") }, 8);
    assert.throws(() => new SafetensorsFile(file).tensor("a"), /a: Expected one of F64.* but received F8_E4M3/);
    assert.throws(() => new SafetensorsFile(file).tensor("b"), /b: Expected a tensor of this name/);
  });

  test("hold no handles but what they give out", () => {
    const file = join(folder, "handles.safetensors");
    saveSafetensors(file, { a: tensor([1, 2]), b: zeros([2, 2, 3, 3]) });
    const before = liveTensors();
    const loaded = loadSafetensors(file, { dtype: "bfloat16", memoryFormat: "channelsLast" });
    assert.equal(liveTensors() - before, loaded.size);
  });
});
