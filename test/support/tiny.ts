/** A whole training in seconds: the narrow Stable Diffusion of the golden vectors, and a reward that needs no model. */
import { cpSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { resolveConfig, type Config } from "../../src/b2/index.js";
import { UNet2DConditionModel, type UNetConfigInput } from "../../src/models/index.js";
import { Generator, type Tensor } from "../../src/torch/index.js";
import { fixtures, temporaryFolder } from "./folders.js";

/** Four steps of 16 x 16 pictures, three roots of two branches a stage. */
export const tinyValues = {
  stages: 2,
  model: { path: join(fixtures, "sd1"), height: 16, width: 16 },
  prompts: { train: ["a cat", "a dog", "red apple"], heldOut: ["red cat"] },
  sample: { steps: 4, rootsPerStage: 3, batchSize: 4 },
  branch: { count: 2 },
  interval: { first: 2, last: 3 },
  select: { positiveThreshold: 0.1, negativeThreshold: -0.1 },
  train: { learningRate: 1e-3, samplesPerUpdate: 3, microBatch: 5 },
  eval: { enabled: false, sheet: 0, clip: null, truth: "none", imagesPerPrompt: 2 },
  record: { images: 2 },
};

export const tinyConfig = (...layers: object[]): Config => resolveConfig(tinyValues, ...layers);

/**
 * A folder with the model of `tinyValues` but for a UNet of two levels, with random weights: a third of the work, for tests
 * in which the depth of the UNet proves nothing.
 */
export function shallowModel(): string {
  const folder = join(temporaryFolder(), "shallow");
  for (const part of ["model_index.json", "scheduler", "text_encoder", "tokenizer", "unet/config.json", "vae"]) {
    cpSync(join(fixtures, "sd1", part), join(folder, part), { recursive: true });
  }
  const config = JSON.parse(readFileSync(join(folder, "unet/config.json"), "utf8")) as UNetConfigInput;
  const unet = UNet2DConditionModel.fromConfig(
    {
      ...config,
      block_out_channels: [16, 32],
      layers_per_block: 1,
      down_block_types: ["CrossAttnDownBlock2D", "DownBlock2D"],
      up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D"],
    },
    { generator: new Generator(1) },
  );
  unet.savePretrained(join(folder, "unet"));
  unet.dispose();
  return folder;
}

/** The mean of the red channel. */
export const redness = (images: Tensor): Promise<number[]> => {
  const red = images.select(1, 0);
  const mean = red.mean({ dim: [1, 2] });
  const values = mean.toArray();
  red.dispose();
  mean.dispose();
  return Promise.resolve(values);
};

/** Runs the garbage collector, and the finalizers that wait for it. */
export async function collectGarbage(): Promise<void> {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  for (let i = 0; i < 5; i++) {
    collect();
    await sleep(20);
  }
}
