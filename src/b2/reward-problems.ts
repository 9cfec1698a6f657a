/** What is wrong with a config's rewards and can be said before anything is loaded. */
import { InputError } from "../base/errors.js";
import { optionsOf } from "../base/registry.js";
import { labelOf, rewards } from "../rewards/index.js";
import type { Config } from "./config/schema.js";
import type { PromptLists } from "./rollout/prompts.js";

/**
 * Checks that all rewards have what they need, packages for example, and know what to do with every prompt.
 *
 * @throws InputError with a sentence for each problem
 */
export function checkRewardsOf({ rewards: named }: Pick<Config, "rewards">, lists: PromptLists): void {
  const problems = named.flatMap((entry) => {
    const kind = rewards.get(entry.name);
    const options = optionsOf(kind, entry);
    const own = kind.problems?.(options) ?? [];
    const prompts = new Set([...lists.training, ...(lists["held-out"] ?? [])]);
    // The first alone: what is missing in one prompt of a list is usually missing in all.
    for (const prompt of kind.promptProblem === undefined ? [] : prompts) {
      const problem = kind.promptProblem?.(options, prompt, lists.metadata?.get(prompt) ?? {});
      if (problem !== undefined) return [...own, `${problem} (the reward ${labelOf(entry)})`];
    }
    return own;
  });
  if (problems.length > 0) throw new InputError(problems.join("\n"));
}
