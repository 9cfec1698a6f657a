/**
 * The run folder: where everything lies, and the shapes of its JSON.
 *
 *     run.json                       format and version of this folder, when it was begun, and what has computed it
 *     run.lock                       while a process works on the run: its id and host
 *     config.json                    the resolved config
 *     metrics.jsonl                  a line per finished stage (docs/metrics.md)
 *     warnings.jsonl                 signs that the training goes wrong, in words; missing if there are none
 *     stages/0007/
 *       sampled.safetensors          of `b2 sample`, or where a reward failed: the branched part of every trajectory; deleted
 *                                    when the stage is finished
 *       sampled.json                 their prompts, roots and branches
 *       scores.json                  where a reward failed: what all have said of the first images; deleted like the samples
 *       samples.jsonl                a line per image: prompt, root, branch, reward, advantage, whether it trains
 *       selected.safetensors         the selected trajectories: latents, log-probs, advantages; the edges of a tree
 *       partial.json                 seconds and cost of the phases so far, where a stage is done in several attempts or processes
 *       updates.jsonl                a line per optimiser step
 *       images/*.png
 *       optimizer.safetensors        Adam's moments after this stage
 *       pytorch_lora_weights.safetensors
 *       denoiser/                    in place of the LoRA with full fine-tuning: the weights after this stage
 *       ema/                         with `train.ema`: their moving average, a LoRA or a denoiser, which is the result
 *       sampler/                     the weights that sample the next stage, where they lag behind
 *       stage.json                   the stage's metrics; written last, its presence means the stage is finished
 *     intervals/0000.json            what was measured before a stage, with `interval.mode` "measured"
 *     model/                         with full fine-tuning: the whole model after the last stage
 *     before.png, before-after.png   contact sheets
 *     reward.png                     the reward of every stage
 *     eval/before.json, after.json   tables of reward, true alignment and diversity
 *     annotations/                   with the reward `people`: what people are asked, and what they have answered
 *                                    (src/annotate/annotations.ts)
 *
 * Everything is safetensors, JSON, JSON Lines or PNG, and written atomically; in annotations/ lines are appended.
 */
import { join } from "node:path";

export const RUN_FORMAT = "b2-run";
export const RUN_VERSION = 2;

/** What computes: another one gives other bits. */
export interface Maker {
  /** Versions of this package and of libtorch. */
  readonly b2: string;
  readonly libtorch: string;
  /** As the processor calls itself. */
  readonly processor: string;
  readonly threads: number;
  readonly device: string;
}

/** A maker, and the stages that are its work. */
export interface MadeBy extends Maker {
  /** The first of them, from 0; they end where the next maker's begin. */
  readonly fromStage: number;
  readonly at: string;
}

export interface RunFile {
  readonly format: typeof RUN_FORMAT;
  readonly version: number;
  readonly createdAt: string;
  /** Whether the config's rewards score, or the program that began the run. Missing in version 1. */
  readonly reward?: "config" | "program";
  /** In order. Missing in runs of earlier versions. */
  readonly madeBy?: readonly MadeBy[];
}

/** Paths in a run folder. */
export const layout = {
  run: (folder: string) => join(folder, "run.json"),
  lock: (folder: string) => join(folder, "run.lock"),
  config: (folder: string) => join(folder, "config.json"),
  metrics: (folder: string) => join(folder, "metrics.jsonl"),
  warnings: (folder: string) => join(folder, "warnings.jsonl"),
  stages: (folder: string) => join(folder, "stages"),
  stage: (folder: string, stage: number) => join(folder, "stages", String(stage).padStart(4, "0")),
  intervals: (folder: string) => join(folder, "intervals"),
  interval: (folder: string, stage: number) => join(folder, "intervals", `${String(stage).padStart(4, "0")}.json`),
  model: (folder: string) => join(folder, "model"),
  annotations: (folder: string) => join(folder, "annotations"),
  annotationQueue: (folder: string) => join(folder, "annotations", "queue.jsonl"),
  evaluations: (folder: string) => join(folder, "eval"),
  evaluation: (folder: string, name: string) => join(folder, "eval", `${name}.json`),
} as const;

/** Files of a stage's folder, in the order in which they are written. */
export const stageFiles = {
  sampledTensors: "sampled.safetensors",
  sampled: "sampled.json",
  scores: "scores.json",
  images: "images",
  samples: "samples.jsonl",
  selected: "selected.safetensors",
  partial: "partial.json",
  updates: "updates.jsonl",
  optimizer: "optimizer.safetensors",
  lora: "pytorch_lora_weights.safetensors",
  denoiser: "denoiser",
  ema: "ema",
  sampler: "sampler",
  metrics: "stage.json",
} as const;

/** The name of the evaluation after so many stages, while more are to come. */
export const evaluationAfter = (stages: number): string => `stage-${String(stages).padStart(4, "0")}`;

/** How many stages came before an evaluation of that name; undefined for "before", "after" and foreign names. */
export function stageOfEvaluation(name: string): number | undefined {
  const [, stages] = /^stage-(\d+)$/.exec(name) ?? [];
  return stages === undefined ? undefined : Number(stages);
}

/** File names of version 1 that have changed. */
export const formerStageFiles: Readonly<Partial<Record<keyof typeof stageFiles, string>>> = { denoiser: "unet" };
