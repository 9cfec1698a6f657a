/** Conflicts between values that are each valid on their own. */
import { optionsOf } from "../../base/registry.js";
import { listOf } from "../../base/show.js";
import { labelOf } from "../../rewards/index.js";
import { schedulers } from "../../schedulers/index.js";
import { objectives } from "../objectives/index.js";
import { configSchema, intervalOf, type Config } from "./schema.js";

/** Whether the sampler draws no noise. What a family chooses where the config names no scheduler does. */
function isDeterministic({ scheduler }: Config): boolean {
  if (scheduler === null) return false;
  const kind = schedulers.get(scheduler.name);
  return kind.isDeterministic?.(optionsOf(kind, scheduler)) ?? false;
}

/** More images of one stage, or of one evaluation, would fill the memory. */
const MOST_IMAGES = 1_000_000;

/** One impossible combination of valid values: the keys involved, and the reason. */
export interface Conflict {
  readonly keys: readonly string[];
  readonly reason: string;
}

/**
 * Checks that involve several keys, which the schema of one key cannot make.
 *
 * @returns an empty list for a config that can run
 */
export function conflicts(config: Config): Conflict[] {
  const found: Conflict[] = [];
  const unless = (fine: boolean, keys: string[], reason: string): void => {
    if (!fine) found.push({ keys, reason });
  };
  const { sample, select, branch, train, prompts, model, advantage } = config;
  const { shape } = configSchema();
  const defaults = { lora: shape.lora.parse(undefined), advantage: shape.advantage.parse(undefined) };
  const interval = { ...config.interval, ...intervalOf(config) };
  const objective = objectives.get(config.objective.name);
  unless(
    interval.first <= interval.last,
    ["interval.first", "interval.last"],
    `Expected interval.first to be at most interval.last (${interval.last}) but received ${interval.first}`,
  );
  unless(
    interval.last <= sample.steps,
    ["interval.last", "sample.steps"],
    `Expected interval.last to be at most sample.steps (${sample.steps}) but received ${interval.last}`,
  );
  unless(
    interval.skipLast < interval.first,
    ["interval.skipLast", "interval.first"],
    `Expected interval.skipLast to be less than interval.first (${interval.first}) but received ${interval.skipLast}`,
  );
  const measured = interval.mode === "measured";
  for (const key of ["first", "last"] as const) {
    unless(
      !measured || config.interval[key] === null,
      ["interval.mode", `interval.${key}`],
      `Expected null for interval.${key} with interval.mode "measured", which measures it, but received ${config.interval[key]}`,
    );
  }
  const usual = configSchema().shape.interval.parse(undefined);
  for (const key of ["every", "roots", "branches", "splits"] as const) {
    unless(
      measured || interval[key] === usual[key],
      ["interval.mode", `interval.${key}`],
      `Expected no interval.${key} for interval.mode "fixed", which measures nothing, but received ${interval[key]}`,
    );
  }
  unless(
    select.negativeThreshold <= select.positiveThreshold,
    ["select.negativeThreshold", "select.positiveThreshold"],
    `Expected select.negativeThreshold to be at most select.positiveThreshold (${select.positiveThreshold}) but received ${select.negativeThreshold}`,
  );
  unless(
    prompts.order !== "fixed" || prompts.fixed !== null,
    ["prompts.order", "prompts.fixed"],
    'Expected prompts.fixed to be a prompt for prompts.order "fixed" but received null',
  );
  for (const reason of objective.conflicts?.(config, optionsOf(objective, config.objective)) ?? []) {
    found.push({ keys: ["objective.name", "select.mode", "branch.count", "train.stepWeights"], reason });
  }
  unless(
    train.stepWeights === "none" || objective.learnsFrom === "transitions",
    ["train.stepWeights", "objective.name"],
    `Expected train.stepWeights "none" for the objective ${objective.name}, which does not learn from steps, but received "${train.stepWeights}"`,
  );
  unless(
    train.oldLogProbs === null || objective.learnsFrom !== "final-latents",
    ["train.oldLogProbs", "objective.name"],
    `Expected no train.oldLogProbs for the objective ${objective.name}, which learns from final latents, but received "${train.oldLogProbs}"`,
  );
  if (isDeterministic(config)) {
    unless(
      objective.learnsFrom === "final-latents",
      ["scheduler", "objective.name"],
      `Expected a scheduler with noise, such as eta over 0, for the objective ${objective.name}, which learns from log-probs, but received ${JSON.stringify(config.scheduler)}`,
    );
    unless(
      branch.count === 1 && branch.splits.length === 0,
      ["scheduler", "branch.count", "branch.splits"],
      `Expected branch.count 1 for a scheduler without noise, whose branches of a root are equal, but received ${branch.count}${branch.splits.length > 0 ? " and branch.splits" : ""}`,
    );
  }
  unless(
    !measured || branch.splits.length === 0,
    ["interval.mode", "branch.splits"],
    `Expected no branch.splits for interval.mode "measured", whose intervals can be shorter, but received ${branch.splits.length} of them`,
  );
  const splits = branch.splits.map(({ at }) => at);
  unless(
    splits.every((at, i) => at < (splits[i - 1] ?? interval.first) && at > interval.skipLast),
    ["branch.splits", "interval.first", "interval.skipLast"],
    `Expected falling values of at for branch.splits, below interval.first (${interval.first}) and over interval.skipLast (${interval.skipLast}), but received ${splits.join(", ")}`,
  );
  const branches = branch.splits.reduce((product, split) => product * split.count, branch.count);
  const atOnce: readonly (readonly [keys: string[], count: number])[] = [
    [["sample.rootsPerStage", "branch.count", "branch.splits"], sample.rootsPerStage * branches],
    [["eval.maxPrompts", "eval.imagesPerPrompt"], config.eval.maxPrompts * config.eval.imagesPerPrompt],
    [["eval.sheet", "eval.sheetImages"], config.eval.sheet * config.eval.sheetImages],
    [
      ["interval.roots", "interval.branches", "interval.splits"],
      measured ? interval.roots * interval.branches * interval.splits : 0,
    ],
  ];
  for (const [keys, images] of atOnce) {
    unless(
      images <= MOST_IMAGES,
      keys,
      `Expected at most ${MOST_IMAGES} images from ${listOf(keys, "and")} together but received ${images}`,
    );
  }
  unless(
    config.rewards.some(({ role }) => role === "train"),
    ["rewards"],
    'Expected a reward of role "train" to learn from but received judges only',
  );
  const labels = config.rewards.map(labelOf);
  const twice = labels.find((label, i) => labels.indexOf(label) !== i);
  unless(
    twice === undefined,
    ["rewards"],
    `Expected rewards of different names or labels but received ${twice} twice; give one of them a label`,
  );
  unless(
    advantage.mode !== "branch-centred" || branch.count >= 2,
    ["advantage.mode", "branch.count"],
    `Expected branch.count of 2 or more for advantage.mode "branch-centred" but received ${branch.count}`,
  );
  const { historyStages, historyImages, minImages } = advantage;
  unless(
    historyImages === null || minImages <= historyImages,
    ["advantage.minImages", "advantage.historyImages"],
    `Expected advantage.minImages to be at most advantage.historyImages (${historyImages}) but received ${minImages}`,
  );
  unless(
    advantage.mode !== "group-relative" || historyStages === 0 || historyStages === defaults.advantage.historyStages,
    ["advantage.mode", "advantage.historyStages"],
    `Expected no advantage.historyStages for advantage.mode "group-relative", which compares the images of one stage, but received ${historyStages}`,
  );
  if (train.parameters === "full") {
    unless(
      model.dtype === "float32",
      ["train.parameters", "model.dtype"],
      `Expected model.dtype "float32" for train.parameters "full", whose steps are too small for half precision, but received "${model.dtype}"`,
    );
    for (const key of ["rank", "alpha", "targetModules"] as const) {
      unless(
        JSON.stringify(config.lora[key]) === JSON.stringify(defaults.lora[key]),
        ["train.parameters", `lora.${key}`],
        `Expected lora.${key} ${JSON.stringify(defaults.lora[key])}, its default, for train.parameters "full", which trains without a LoRA, but received ${JSON.stringify(config.lora[key])}`,
      );
    }
  }
  return found;
}
