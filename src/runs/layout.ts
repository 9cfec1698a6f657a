/**
 * The run folder: where everything lies, and the shapes of its JSON.
 *
 *     run.json                       what this folder is: format, version, when it was begun
 *     config.json                    the resolved config
 *     metrics.jsonl                  a line per finished stage (docs/metrics.md)
 *     stages/0007/
 *       sampled.safetensors          `b2 sample`: the branched part of every trajectory, until the stage is finished
 *       sampled.json                 their prompts, roots and branches
 *       samples.jsonl                a line per image: prompt, root, branch, reward, advantage, whether it trains
 *       selected.safetensors         the selected trajectories: latents, log-probs, advantages
 *       partial.json                 what the phases so far took, when each runs in a process of its own
 *       updates.jsonl                a line per optimiser step
 *       images/*.png
 *       optimizer.safetensors        Adam's moments after this stage
 *       pytorch_lora_weights.safetensors
 *       unet/                        the weights after this stage instead, where all of the UNet trains
 *       stage.json                   the stage's metrics; written last, its presence means the stage is finished
 *     model/                         the whole model after the last stage, where all of the UNet trains
 *     before.png, before-after.png   contact sheets
 *     reward.png                     the reward of every stage
 *     eval/before.json, after.json   tables of reward, true alignment and diversity
 *
 * Everything is safetensors, JSON, JSON Lines or PNG, and written atomically.
 */
import { join } from "node:path";

export const runFormat = "b2-run";
export const runVersion = 1;

export interface RunFile {
  readonly format: typeof runFormat;
  readonly version: number;
  readonly createdAt: string;
}

/** One image of a stage, as samples.jsonl has it. */
export interface SampleLine {
  readonly root: number;
  readonly branch: number;
  readonly prompt: string;
  readonly reward: number;
  readonly advantage: number;
  readonly selected: boolean;
  /** File in the stage's folder, where one was kept. */
  readonly image?: string;
}

/** What each name means is in docs/metrics.md. */
export type Metrics = Readonly<Record<string, number | null>>;

/** Paths in a run folder. */
export const layout = {
  run: (folder: string) => join(folder, "run.json"),
  config: (folder: string) => join(folder, "config.json"),
  metrics: (folder: string) => join(folder, "metrics.jsonl"),
  stages: (folder: string) => join(folder, "stages"),
  stage: (folder: string, stage: number) => join(folder, "stages", String(stage).padStart(4, "0")),
  model: (folder: string) => join(folder, "model"),
  evaluation: (folder: string, name: string) => join(folder, "eval", `${name}.json`),
} as const;

/** Files of a stage's folder, in the order in which they come to be. */
export const stageFiles = {
  sampledTensors: "sampled.safetensors",
  sampled: "sampled.json",
  images: "images",
  samples: "samples.jsonl",
  selected: "selected.safetensors",
  partial: "partial.json",
  updates: "updates.jsonl",
  optimizer: "optimizer.safetensors",
  lora: "pytorch_lora_weights.safetensors",
  unet: "unet",
  metrics: "stage.json",
} as const;
