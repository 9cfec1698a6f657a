/** The weights of a diffusers folder: one file, shards with an index, variants of either, and what is refused. */
import assert from "node:assert/strict";
import { cpSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { AutoencoderKL, weightFiles } from "../src/models/index.js";
import { loadSafetensors, saveSafetensors } from "../src/safetensors/index.js";
import { liveTensors, tidy } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { goldenSets } from "./support/golden.js";

const folder = temporaryFolder();

const source = goldenSets("vae", "config.json")[0]!.path("vae");
const stem = "diffusion_pytorch_model";

/** A folder with the VAE in two shards, named as diffusers names them, and its index. */
function sharded(name: string, variant = "", weightOfKey = (_key: string, shard: string): unknown => shard): string {
  const own = join(folder, name);
  cpSync(join(source, "config.json"), join(own, "config.json"));
  const index: Record<string, unknown> = {};
  tidy(() => {
    const all = [...loadSafetensors(join(source, `${stem}.safetensors`))];
    [all.slice(0, 9), all.slice(9)].forEach((tensors, i) => {
      const shard = `${stem}${variant}-0000${i + 1}-of-00002.safetensors`;
      saveSafetensors(join(own, shard), new Map(tensors));
      for (const [key] of tensors) index[key] = weightOfKey(key, shard);
    });
  });
  const text = JSON.stringify({ metadata: { total_size: 1 }, weight_map: index });
  writeFileSync(join(own, `${stem}.safetensors.index${variant}.json`), text);
  return own;
}

describe("shards", () => {
  for (const [variant, options] of [
    ["", {}],
    [".fp16", { variant: "fp16" }],
  ] as const) {
    test(`are read as one${variant && `, of the variant ${variant.slice(1)}`}`, () => {
      const [whole, parts] = [
        AutoencoderKL.fromPretrained(source),
        AutoencoderKL.fromPretrained(sharded(`shards${variant}`, variant), options),
      ];
      for (const [key, tensor] of whole.parameters()) assert(tensor.equal(parts.parameters().get(key)!), key);
      for (const model of [whole, parts]) model.dispose();
    });
  }

  test("that lack one, or lie elsewhere, are refused and leave nothing in memory", () => {
    const before = liveTensors();
    const lacking = sharded("lacking");
    rmSync(join(lacking, `${stem}-00002-of-00002.safetensors`));
    assert.throws(() => AutoencoderKL.fromPretrained(lacking), /00002-of-00002\.safetensors/);
    for (const name of ["../other.safetensors", "..", ".", "", "/dev/zero", "a\0.safetensors"]) {
      const elsewhere = sharded("elsewhere", "", () => name);
      assert.throws(() => AutoencoderKL.fromPretrained(elsewhere), /Expected file names in weight_map but received "/);
    }
    assert.equal(liveTensors(), before);
  });
});

test("a folder that has its weights as a variant alone says which", () => {
  const fp16 = join(folder, "fp16");
  cpSync(join(source, `${stem}.safetensors`), join(fp16, `${stem}.fp16.safetensors`));
  assert.throws(() => weightFiles(fp16, stem), /model\.safetensors in .* but received one with the variant fp16 alone/);
  assert.throws(() => weightFiles(sharded("index.fp16", ".fp16"), stem), /received one with the variant fp16 alone/);
  assert.deepEqual(weightFiles(fp16, stem, "fp16"), [join(fp16, `${stem}.fp16.safetensors`)]);
  assert.throws(() => weightFiles(join(folder, "nowhere"), stem), /received a folder without it/);
});
