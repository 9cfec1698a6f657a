/** Config sections whose keys come from a registry, with the entry that is the default. */
import type { Entry, Registry } from "../../base/registry.js";
import { rewards } from "../../rewards/index.js";
import { schedulers } from "../../schedulers/index.js";
import { objectives } from "../objectives/index.js";

export const registries: Readonly<Record<"scheduler" | "rewards" | "objective", Registry<Entry>>> = {
  scheduler: schedulers,
  rewards,
  objective: objectives,
};

/** Sections that are one entry; `rewards` is a list of them. */
export const defaultNames: Readonly<Record<"scheduler" | "objective", string>> = {
  scheduler: "ddim",
  objective: "ppo",
};

/** The rewards of a config that names none. */
export const defaultRewards: readonly unknown[] = [{ name: "clip-score" }];
