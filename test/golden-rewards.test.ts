/** The models of rewards against golden vectors: OpenCLIP's own layout, and LAION's aesthetic head. */
import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import { AestheticHead, type CLIPModel } from "../src/models/index.js";
import { loadOpenClip, openClipPrefix, readOpenClipConfig } from "../src/single-file/index.js";
import { liveTensors, noGrad, tidy, type Tensor } from "../src/torch/index.js";
import { assertClose, goldenSets, outputTolerance, type GoldenSet } from "./support/golden.js";

/** Largest deviation of a score. */
const SCORE_TOLERANCE = 1e-5;

const unit = (x: Tensor) => x.div(x.norm({ dim: -1, keepdim: true }));

/** The CLIP of a golden set, whatever its weights are called. */
function openClip(set: GoldenSet): CLIPModel {
  const weights = readdirSync(set.path("open_clip")).find((name) => /^open_clip_.*\.safetensors$/.test(name));
  assert(weights !== undefined, `${set.name} has weights`);
  const source = set.path("open_clip", "open_clip_config.json");
  const file = set.path("open_clip", weights);
  const prefix = openClipPrefix(file);
  assert(prefix !== undefined, `${file} has OpenCLIP's keys`);
  return loadOpenClip(file, { config: readOpenClipConfig(source).model, source, prefix });
}

function assertScores(actual: Tensor, expected: Tensor): void {
  const off = tidy(() => actual.sub(expected).abs().amax().item());
  assert(off <= SCORE_TOLERANCE, `a score is off by ${off}`);
}

test("the project has golden sets of its own for rewards", () => {
  for (const part of ["open_clip", "aesthetic"]) assert(goldenSets(part, "io.safetensors").length > 0, part);
});

for (const set of goldenSets("open_clip", "io.safetensors")) {
  test(`a CLIP in OpenCLIP's layout, golden ${set.name}`, () => {
    const live = liveTensors();
    const model = openClip(set);
    tidy(() => {
      const io = set.tensors("open_clip", "io.safetensors");
      const images = noGrad(() => unit(model.getImageFeatures(io.get("pixel_values"))));
      const texts = noGrad(() => unit(model.getTextFeatures(io.get("input_ids"))));
      assertClose(images, io.get("image_embeds"), outputTolerance, `${set.name} image_embeds`);
      assertClose(texts, io.get("text_embeds"), outputTolerance, `${set.name} text_embeds`);
      assertScores(images.mul(texts).sum({ dim: 1 }), io.get("hps_scores"));
    });
    model.dispose();
    assert(liveTensors() <= live);
  });
}

for (const set of goldenSets("aesthetic", "io.safetensors")) {
  test(`LAION's aesthetic head, golden ${set.name}`, () => {
    for (const path of [set.path("aesthetic"), set.path("aesthetic", "model.safetensors")]) {
      const head = AestheticHead.fromPretrained(path);
      tidy(() => {
        const io = set.tensors("aesthetic", "io.safetensors");
        assert.equal(head.inFeatures, io.get("features").size(1));
        assertScores(
          noGrad(() => head.forward(io.get("features"))),
          io.get("scores"),
        );
      });
      head.dispose();
    }
  });
}
