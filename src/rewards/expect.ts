/** Checks rewards before anything is downloaded or loaded. */
import { optionsOf, type Named } from "../base/registry.js";
import { RewardError } from "./error.js";
import { rewards } from "./reward.js";

/** @throws RewardError with all that is missing for the rewards of a config, such as packages to install */
export function expectRewards(named: readonly Named[]): void {
  const problems = named.flatMap((entry) => {
    const kind = rewards.get(entry.name);
    return kind.problems?.(optionsOf(kind, entry)) ?? [];
  });
  if (problems.length > 0) throw new RewardError([...new Set(problems)].join("\n"));
}
