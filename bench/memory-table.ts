/**
 * The memory that the presets take at several sizes of image, as `b2 run --dry-run` estimates it, as the tables of
 * docs/memory.md. The models are published ones without their weights (bench/header-only.ts), so that nothing is
 * downloaded.
 *
 *     npm run build && node dist/bench/memory-table.js [--pixels 256,512,768,1024]
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { presets, resolveConfig, runMemory, type ConfigInput } from "../src/b2/index.js";
import { headerOnlyClip, headerOnlyFlowModel, headerOnlyModel } from "./header-only.js";

const { values } = parseArgs({ options: { pixels: { type: "string", default: "256,512,768,1024" } } });
const sizes = values.pixels.split(",").map(Number);

const folder = mkdtempSync(join(tmpdir(), "b2-memory-"));
const at = (name: string): string => join(folder, name);
headerOnlyClip("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", at("clip"));
for (const name of ["stable-diffusion-v1-4", "stable-diffusion-2-base", "stable-diffusion-xl-base-1.0"]) {
  headerOnlyModel(name, at(name));
}
headerOnlyFlowModel("stable-diffusion-3.5-medium", at("stable-diffusion-3.5-medium"));

/** The preset sd with another model, and with its CLIP. */
const sd = (model: string, ...more: ConfigInput[]): ConfigInput[] => [
  presets.sd,
  { model: { path: at(model) }, rewards: [{ name: "clip-score", model: at("clip") }], eval: { clip: at("clip") } },
  ...more,
];
/** The preset sd3 with a model without weights, and PickScore's CLIP, which is a ViT-H-14. */
const sd3 = (...more: ConfigInput[]): ConfigInput[] => [
  presets.sd3,
  {
    model: { path: at("stable-diffusion-3.5-medium") },
    rewards: [{ name: "pick-score", model: at("clip"), scale: "flow-grpo" }],
    eval: { clip: at("clip") },
  },
  ...more,
];
const full = (use8bitAdam: boolean): ConfigInput => ({
  model: { dtype: "float32" },
  train: { parameters: "full", use8bitAdam },
});
const noLora: ConfigInput = { lora: { rank: 4, alpha: null } };
const [sd14, sd2, sdxl] = ["stable-diffusion-v1-4", "stable-diffusion-2-base", "stable-diffusion-xl-base-1.0"] as const;

const settings: readonly (readonly [title: string, layers: readonly ConfigInput[], sizes: readonly number[]])[] = [
  ["`sd`: Stable Diffusion 1.4", sd(sd14), sizes],
  ["`sd` with Stable Diffusion 2", sd(sd2), sizes],
  ["`sd` with Stable Diffusion XL", sd(sdxl), sizes],
  [
    "`sd` with Stable Diffusion XL, `sample.batchSize=4`, `sample.decodeBatchSize=1`, `train.microBatch=1`, `model.tiling=true`, `model.offload=true`",
    sd(sdxl, {
      model: { tiling: true, offload: true },
      sample: { batchSize: 4, decodeBatchSize: 1 },
      train: { microBatch: 1 },
    }),
    sizes,
  ],
  ["`sd`, `model.dtype=float32`, `train.parameters=full`", sd(sd14, full(false)), sizes],
  ["the same, `train.use8bitAdam=true`", sd(sd14, full(true)), sizes],
  ["`sd` with Stable Diffusion XL, `model.dtype=float32`, `train.parameters=full`", sd(sdxl, full(false)), sizes],
  ["the same, `train.use8bitAdam=true`", sd(sdxl, full(true)), sizes],
  ["`sd3`: Stable Diffusion 3.5 medium", sd3(), [512, 1024]],
  ["`sd3` without `model.offload`", sd3({ model: { offload: false } }), [512, 1024]],
  [
    "`sd3`, `sample.batchSize=4`, `sample.decodeBatchSize=1`, `train.microBatch=1`, `model.tiling=true`, `rewards.0.offload=true`",
    sd3({
      model: { tiling: true },
      sample: { batchSize: 4, decodeBatchSize: 1 },
      train: { microBatch: 1 },
      rewards: [{ name: "pick-score", model: at("clip"), scale: "flow-grpo", offload: true }],
    }),
    [512, 1024],
  ],
  ["`sd3`, `model.dtype=float32`, `train.parameters=full`", sd3(full(false), noLora), [512, 1024]],
  ["the same, `train.use8bitAdam=true`", sd3(full(true), noLora), [512, 1024]],
  ["`demo`, on a CPU", [presets.demo], [64, ...sizes]],
  ["`demo-b2`, on a CPU", [presets["demo-b2"]], [64, ...sizes]],
];

const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(bytes < 1e8 ? 3 : bytes < 1e9 ? 2 : 1);

for (const [title, layers, pixels] of settings) {
  let encoding: number | undefined;
  console.log(`**${title}**\n`);
  console.log("| pixels | sampling | decoding | training | of it weights, gradients, moments | trajectories |");
  console.log("| --- | --- | --- | --- | --- | --- |");
  for (const side of pixels) {
    const config = resolveConfig(...layers, { model: { height: side, width: side } });
    const { phases, trajectories, weights } = runMemory(config);
    encoding = weights.devices.get(config.model.device)!.encoding;
    const { sampling, decoding, training } = phases!;
    const peaks = [sampling, decoding, training].map(({ weights, passes }) => weights + passes);
    console.log(
      `| ${[side, ...[...peaks, training.weights, trajectories!].map((x) => (typeof x === "number" ? gigabytes(x) : x))].join(" | ")} |`,
    );
  }
  console.log();
  if (encoding !== undefined) console.log(`Weights while prompts are encoded, before: ${gigabytes(encoding)}.\n`);
}
rmSync(folder, { recursive: true });
