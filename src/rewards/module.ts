/** A user's own reward: the default export of a JavaScript module, or of a TypeScript one if Node strips types. */
import { existsSync } from "node:fs";
import { basename, extname, resolve } from "node:path";
import { z } from "zod";
import { importModule } from "../base/import-module.js";
import { RewardError } from "./error.js";
import { defineReward, type Reward } from "./reward.js";

export const moduleReward = defineReward({
  name: "module",
  summary: "The default export of a module of your own: (images, prompts) => numbers, or { score, dispose }",
  cost: "depends on the module",
  options: z.object({
    path: z.string().min(1).describe("Path of the module, relative to the working folder."),
  }),
  label: ({ path }) => basename(path, extname(path)),
  open: async ({ path }): Promise<Reward> => {
    const file = resolve(path);
    if (!existsSync(file))
      throw new RewardError(`Expected a module for the reward but received ${path}, which does not exist`);
    const { default: value } = (await importModule(file, "the reward")) as { default?: unknown };
    if (typeof value === "function") return { score: value as Reward["score"] };
    if (typeof value === "object" && value !== null && typeof (value as Partial<Reward>).score === "function") {
      return value as Reward;
    }
    throw new RewardError(
      `Expected a function, or an object with a function score, as default export of ${path} but received ${typeof value}`,
    );
  },
});
