/** A user's own reward: a JavaScript module, or a TypeScript one if Node strips types. `b2 new reward` writes one. */
import { existsSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import { z } from "zod";
import { chunks } from "../base/chunks.js";
import { importModule } from "../base/import-module.js";
import { show } from "../base/show.js";
import { RewardError } from "./error.js";
import { checkRewards, defineReward, type Reward, type RewardContext } from "./reward.js";

/** What a module gives: a reward that may say how many images it takes at once. */
export interface ModuleReward extends Reward {
  /** Images at once; null or left out: as many as are decoded. */
  readonly batchSize?: number | null;
}

/** A named export `open` of a module: makes the reward from the `options` of the config. */
export type OpenReward = (
  options: Readonly<Record<string, unknown>>,
  context: RewardContext,
) => ModuleReward | Reward["score"] | Promise<ModuleReward | Reward["score"]>;

export const moduleReward = defineReward({
  name: "module",
  summary: "A module of your own: its default export (images, prompts, call) => numbers, or { score, dispose }",
  cost: "depends on the module",
  range: "what the module gives; finite, at most 1e30",
  source: "your own; `b2 new reward NAME` writes one to start from",
  licence: "your own",
  options: z.object({
    path: z.string().min(1).describe("Path of the module, relative to the working folder."),
    options: z
      .record(z.string(), z.unknown())
      .default({})
      .describe("Given to the function `open(options, context)` of the module, which returns the reward."),
    batchSize: z
      .int()
      .min(1)
      .nullable()
      .default(null)
      .describe("Images at once; null is what the module says (`batchSize`), else as many as are decoded.")
      .meta({ affects: "nothing" }),
  }),
  label: ({ path }) => nameOf(path),
  open: async ({ path, options, batchSize }, context): Promise<Reward> => {
    const reward = await rewardOf(path, options, context);
    const most = batchSize ?? reward.batchSize ?? null;
    return most === null ? reward : inBatches(reward, most, `the reward ${nameOf(path)}`);
  },
});

const nameOf = (path: string): string => basename(path, extname(path));

/** @throws RewardError for a module that is not there, or gives no reward; InputError for one that does not load */
async function rewardOf(
  path: string,
  options: Readonly<Record<string, unknown>>,
  context: RewardContext,
): Promise<ModuleReward> {
  const file = resolve(path);
  if (!existsSync(file))
    throw new RewardError(`Expected a module for the reward but received ${path}, which does not exist`);
  const { default: given, open } = await importModule(file, "the reward");
  if (typeof open === "function") {
    return checked(await (open as OpenReward)(options, context), `what open of ${path} returns`);
  }
  if (Object.keys(options).length > 0) {
    throw new RewardError(
      `Expected a function open(options, context) in ${path}, which the config has options for, but found none`,
    );
  }
  return checked(given, `default export of ${path}`);
}

/** @throws RewardError for a value that is no reward */
function checked(value: unknown, what: string): ModuleReward {
  if (typeof value === "function") return { score: value as Reward["score"] };
  if (typeof value !== "object" || value === null || typeof (value as Partial<Reward>).score !== "function") {
    throw new RewardError(
      `Expected a function, or an object with a function score, as ${what} but received ${typeof value}`,
    );
  }
  const { batchSize, ...others } = value as Record<keyof ModuleReward, unknown>;
  for (const name of ["dispose", "complete"] as const) {
    if (others[name] !== undefined && typeof others[name] !== "function") {
      throw new RewardError(`Expected a function for ${name} of ${what} but received ${show(others[name])}`);
    }
  }
  if (batchSize !== undefined && batchSize !== null && !(Number.isInteger(batchSize) && Number(batchSize) > 0)) {
    throw new RewardError(
      `Expected a whole number of at least 1 for batchSize of ${what} but received ${show(batchSize)}`,
    );
  }
  return value as ModuleReward;
}

/** A reward that gets at most `most` images at once. @param name for errors */
function inBatches(reward: Reward, most: number, name: string): Reward {
  return {
    concurrent: reward.concurrent ?? false,
    score: async (images, prompts, { keys, metadata, signal } = {}) => {
      const scores: number[] = [];
      for (const [start, length] of chunks(prompts.length, most)) {
        const part = <T>(all: readonly T[]): T[] => all.slice(start, start + length);
        const some = images.narrow(0, start, length);
        try {
          const call = {
            ...(keys && { keys: part(keys) }),
            ...(metadata && { metadata: part(metadata) }),
            ...(signal && { signal }),
          };
          const own = part(prompts);
          scores.push(...checkRewards(await reward.score(some, own, call), own, name));
        } finally {
          some.dispose();
        }
      }
      return scores;
    },
    ...(reward.complete && { complete: () => reward.complete?.() }),
    dispose: () => reward.dispose?.(),
  };
}
