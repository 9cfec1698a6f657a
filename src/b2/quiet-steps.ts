/** Last steps of a trajectory that draw no noise, or hardly any, so that their log-probs are not worth learning from. */
import { optionsOf } from "../base/registry.js";
import { schedulerOf } from "../pipeline/index.js";
import { schedulers } from "../schedulers/index.js";
import type { Config } from "./config/schema.js";
import { familyOfConfig } from "./models.js";
import { objectives } from "./objectives/index.js";

/** A sentence where a config learns from such steps; undefined where it does not. */
export function quietStepsTrained(config: Config): string | undefined {
  if (objectives.get(config.objective.name).learnsFrom !== "transitions") return undefined;
  const named = config.scheduler ?? schedulerOf(familyOfConfig(config));
  const kind = schedulers.get(named.name);
  const quiet = kind.quietSteps?.(optionsOf(kind, named)) ?? 0;
  if (config.interval.skipLast >= quiet) return undefined;
  return (
    `scheduler ${named.name}: the last ${quiet} steps of a trajectory draw hardly any noise or none, so that their ` +
    `log-probs drown those of the others or are 0; interval.skipLast=${quiet} leaves them out`
  );
}
