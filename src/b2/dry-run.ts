/** Estimates from a config what a run would load and compute. Nothing is downloaded, loaded or written. */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { listOf } from "../base/show.js";
import { findModel } from "../hub/index.js";
import { modelFamilies, schedulerOf } from "../pipeline/index.js";
import { labelOf, rewards, type NeededModel } from "../rewards/index.js";
import { schedulers } from "../schedulers/index.js";
import { evaluationSteps, intervalOf, type Config } from "./config/schema.js";
import { memoryLines } from "./memory/index.js";
import { familyOfConfig, scoringModels } from "./models.js";
import { needsOf, objectives, timestepChoiceOf } from "./objectives/index.js";
import { measuringCost } from "./probe/measured.js";
import { quietStepsTrained } from "./quiet-steps.js";
import { readPromptLists, thinOut } from "./rollout/prompts.js";
import { trainedSteps } from "./rollout/schedule.js";
import { imagesOf, levelsOf } from "./rollout/tree.js";
import { isWithinInterval, timestepsPerSample } from "./update/timesteps.js";

/** How many images and denoiser passes a run takes, over all stages. */
export interface Estimate {
  readonly images: number;
  /** Batch rows that pass through the denoiser while sampling. */
  readonly samplingPasses: number;
  /** (sample, timestep) pairs of all updates: an upper bound, since selection may skip roots. */
  readonly pairs: number;
  /** Rows that pass through the denoiser for these pairs without a backward pass. */
  readonly forwardPasses: number;
  /** Rows of these pairs that pass forward and backward. */
  readonly backwardPasses: number;
  readonly evaluationImages: number;
  /** Rows that pass through the denoiser for these images. */
  readonly evaluationPasses: number;
  /** What measuring the interval takes of all these. */
  readonly measuring: { readonly images: number; readonly passes: number };
}

/** Passes of one image through the denoiser in a step of sampling. */
export function passesPerStep(config: Pick<Config, "model" | "sample" | "scheduler">): number {
  const family = familyOfConfig(config);
  const perPrediction = schedulers.get((config.scheduler ?? schedulerOf(family)).name).passesPerStep ?? 1;
  return family.passes(config.sample.guidanceScale) * perPrediction;
}

/** Which family's passes are counted while it is not known. */
const assumed = ({ model }: Pick<Config, "model">): string =>
  findModel(model.path, model) === undefined
    ? `, if the model, which is not on this machine, is like ${modelFamilies.entries()[0]!.name}`
    : "";

/** Counts the work of a config. */
export function estimate(config: Config): Estimate {
  const { sample, branch, stages, select, interval, train, replay } = config;
  const family = familyOfConfig(config);
  const passes = passesPerStep(config);
  const needs = needsOf(config.objective);
  const trainPasses = family.passes(needs.guided ? sample.guidanceScale : 1);
  const others = (needs.base ? 1 : 0) + (needs.sampler ? 1 : 0);
  const choice = timestepChoiceOf(config.objective);
  const roots = sample.rootsPerStage;
  const ofImages = objectives.get(config.objective.name).learnsFrom === "final-latents";
  const measured = measuringCost(config);
  const measuring = { images: measured.images, passes: measured.steps * passes };
  const evaluated = evaluationImages(config);
  let [images, samplingPasses, pairs] = [measuring.images, measuring.passes, 0];
  for (let stage = 0; stage < stages; stage++) {
    const s = trainedSteps(stage, intervalOf(config));
    const replayed = stage > 0 && replay.stages > 0 ? replay.share : 0;
    images += roots * imagesOf(branch);
    samplingPasses += roots * (sample.steps - s) * passes;
    for (const { from, to, count, edges, images: below } of levelsOf(branch, s)) {
      const nodes = select.mode === "all" ? edges : (edges / count) * Math.min(2, count);
      const rows = Math.round(roots * nodes * (ofImages ? below : 1) * (1 + replayed));
      const trained = isWithinInterval(choice, branch)
        ? Math.min(to, s - interval.skipLast) - from
        : sample.steps - interval.skipLast;
      samplingPasses += roots * edges * (to - from) * passes;
      pairs += rows * timestepsPerSample(choice, trained, train) * train.epochs;
    }
  }
  return {
    images,
    samplingPasses,
    pairs,
    forwardPasses: pairs * others * trainPasses,
    backwardPasses: pairs * trainPasses,
    evaluationImages: evaluated,
    evaluationPasses: evaluated * evaluationSteps(config) * passes,
    measuring,
  };
}

/** The estimate as text for `b2 run --dry-run`, with the models and where they are. */
export function dryRun(config: Config): string {
  const counted = estimate(config);
  const { objective, eval: evaluation, interval, model, stages } = config;
  const use = { rewards: true, evaluation: evaluation.enabled };
  const places = [{ path: model.path }, ...scoringModels(config, use)].map(
    (needed) => `  ${needed.path}: ${placeOf(needed, config)}`,
  );
  const costs = config.rewards.map((named) => {
    const { cost } = rewards.get(named.name);
    return `  ${labelOf(named)}, weight ${named.weight}: ${cost}`;
  });
  const { learnsFrom } = objectives.get(objective.name);
  const needs = needsOf(objective);
  const also = [needs.base && "the base model", needs.sampler && "the weights that sampled"];
  const asks = also.filter((word) => word !== false);
  const whole = (count: number): string => count.toLocaleString("en-US");
  return [
    "models",
    ...places,
    ...memoryLines(config),
    `rewards, ${whole(counted.images)} images in ${stages} stages and ${whole(counted.evaluationImages)} in evaluations`,
    ...costs,
    `objective ${objective.name}, from ${learnsFrom}${asks.length > 0 ? `, with predictions of ${listOf(asks, "and")}` : ""}`,
    ...[quietStepsTrained(config)].filter((line) => line !== undefined),
    ...(interval.mode === "fixed"
      ? []
      : [
          `interval, measured: ${whole(counted.measuring.images)} of the images and ${whole(counted.measuring.passes)} of ` +
            "the passes; the other passes are at most",
        ]),
    `passes of one image through the denoiser${assumed(config)}`,
    `  sampling: ${whole(counted.samplingPasses)} forward`,
    `  training: at most ${whole(counted.backwardPasses)} forward and backward` +
      (counted.forwardPasses > 0 ? `, and ${whole(counted.forwardPasses)} forward` : ""),
    ...(evaluation.enabled ? [`  evaluations: ${whole(counted.evaluationPasses)} forward`] : []),
  ].join("\n");
}

const placeOf = ({ path, purpose }: NeededModel, { model }: Config): string => {
  const found = findModel(path, path === model.path ? model : {});
  if (found === undefined) return "not in the cache, will be downloaded";
  if (purpose === "settings") return `tokenizer and configs in ${found}`;
  return `${Math.ceil(weightBytes(found) / 1e6)} MB of weights in ${found}`;
};

/** Bytes of the safetensors files of a model. */
function weightBytes(path: string): number {
  if (!statSync(path).isDirectory()) return statSync(path).size;
  const files = readdirSync(path, { recursive: true, encoding: "utf8" });
  return files
    .filter((file) => file.endsWith(".safetensors"))
    .reduce((sum, file) => sum + statSync(join(path, file)).size, 0);
}

function evaluationImages(config: Config): number {
  const { enabled, every, imagesPerPrompt, maxPrompts } = config.eval;
  if (!enabled) return 0;
  const lists = readPromptLists(config);
  const prompts = [lists.training, lists["held-out"] ?? []].map((list) => thinOut(list, maxPrompts).length);
  const between = every === 0 ? 0 : Math.ceil(config.stages / every) - 1;
  return (2 + between) * imagesPerPrompt * prompts.reduce((sum, n) => sum + n);
}
