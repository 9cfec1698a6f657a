/** Modules of a user's own that register rewards, objectives, schedulers or models. */
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
 * Loads plugins: modules that call registerReward, registerObjective, registerScheduler or registerModel as they are
 * loaded. One that is loaded already is passed over.
 *
 * @param paths from the working folder
 * @throws InputError for a module that is not there, does not load, or registers nothing
 */
export async function loadPlugins(paths: readonly string[]): Promise<void> {
  for (const path of paths) {
    const file = resolve(path);
    if (loaded.has(file)) continue;
    if (!existsSync(file))
      throw new InputError(`Expected a module for --plugin but received ${path}, which is not there`);
    const before = registered();
    await importModule(file, "--plugin");
    if (registered() === before) {
      throw new InputError(
        `Expected a plugin that registers a reward, an objective, a scheduler or a model but ${path} registers none here; ` +
          "it has to import registerReward and the like from the b2-diffurl that runs it",
      );
    }
    loaded.add(file);
  }
}
