/** The prompts that a run will use, before it begins. */
import type { Config } from "./config/schema.js";
import { isMeasured } from "./probe/measured.js";
import { promptsOfRoots } from "./probe/propose.js";
import { promptsOfStage, thinOut, type PromptLists } from "./rollout/prompts.js";

/**
 * The prompts of a run in the order of their first use, each once: those of its evaluations, and of its stages, which are
 * known before however they are chosen.
 *
 * @param from the first stage that is not finished
 */
export function promptsOfRun(
  { training, "held-out": heldOut = [] }: PromptLists,
  from: number,
  config: Config,
): string[] {
  const { eval: evaluation, interval, stages } = config;
  const thinned = (most: number): string[] => [training, heldOut].flatMap((list) => thinOut(list, most));
  const unfinished = Array.from({ length: Math.max(0, stages - from) }, (_, i) => from + i);
  const ofStages = unfinished.flatMap((stage) => [
    ...(isMeasured(stage, interval) ? promptsOfRoots(training, interval.roots) : []),
    ...promptsOfStage(training, stage, config),
  ]);
  return [
    ...new Set([
      ...(evaluation.enabled ? thinned(evaluation.maxPrompts) : []),
      ...thinned(evaluation.sheet),
      ...ofStages,
    ]),
  ];
}
