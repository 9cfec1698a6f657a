/** Users' own modules that register rewards, objectives, schedulers or models. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { InputError } from "../base/errors.js";
import { importModule } from "../base/import-module.js";
import { modelFamilies } from "../pipeline/index.js";
import { registries } from "./config/sections.js";

const loaded = new Set<string>();

const registered = (): number =>
  [...Object.values(registries), modelFamilies].reduce((sum, registry) => sum + registry.names().length, 0);

/**
 * Loads plugins: modules that call registerReward, registerObjective, registerScheduler or registerModel when imported.
 * A plugin that is loaded already is skipped.
 *
 * @param paths relative to the working folder
 * @throws InputError for a module that does not exist, does not load, or registers nothing
 */
export async function loadPlugins(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    const file = resolve(path);
    if (loaded.has(file)) continue;
    if (!existsSync(file))
      throw new InputError(`Expected a module for --plugin but received ${path}, which does not exist`);
    const before = registered();
    await importModule(file, "--plugin");
    if (registered() === before) {
      throw new InputError(
        `Expected a plugin that registers a reward, an objective, a scheduler or a model but ${path} registers none; ` +
          "it must import registerReward and the like from the same b2-diffurl that loads it",
      );
    }
    loaded.add(file);
  }
}
