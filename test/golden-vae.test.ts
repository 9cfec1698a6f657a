/** AutoencoderKL against golden vectors: both ways, one image not square. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { AutoencoderKL } from "../src/models/index.js";
import { Generator, liveTensors, noGrad, tidy, zeros } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { assertClose, goldenSets, outputTolerance } from "./support/golden.js";

for (const set of goldenSets("vae", "io.safetensors")) {
  describe(`AutoencoderKL, golden ${set.name}`, () => {
    const vae = AutoencoderKL.fromPretrained(set.path("vae"));
    const io = set.tensors("vae", "io.safetensors");

    test("decode", () => {
      const before = liveTensors();
      tidy(() => {
        const decoded = noGrad(() => vae.decode(io.get("latents")));
        assertClose(decoded, io.get("decoded"), outputTolerance, `${set.name} decoded`);
      });
      assert(liveTensors() <= before); // fewer where garbage was collected
    });

    test("encode", () => {
      tidy(() => {
        const { mean, logvar } = noGrad(() => vae.encode(io.get("image")));
        assertClose(mean, io.get("encoded_mean"), outputTolerance, `${set.name} encoded mean`);
        assertClose(logvar, io.get("encoded_logvar"), outputTolerance, `${set.name} encoded logvar`);
      });
    });

    test("saved and loaded again", () => {
      const folder = temporaryFolder();
      vae.savePretrained(folder);
      const again = AutoencoderKL.fromPretrained(folder);
      tidy(() => noGrad(() => assert(again.decode(io.get("latents")).equal(vae.decode(io.get("latents"))))));
    });
  });
}

test("wrong shapes and configs are told apart", () => {
  const generator = new Generator(0);
  const vae = AutoencoderKL.fromConfig({ block_out_channels: [8, 8], norm_num_groups: 4 }, { generator });
  tidy(() => {
    assert.throws(() => vae.encode(zeros([1, 3, 5, 4])), /Expected \[B, 3, multiples of 2\] for images/);
    assert.throws(() => vae.decode(zeros([1, 3, 4, 4])), /Expected \[B, 4, H, W\] for latents/);
  });
  assert.throws(
    () => AutoencoderKL.fromConfig({ shift_factor: "0.1" }, { generator }),
    /for shift_factor but received "0.1"/,
  );
});
