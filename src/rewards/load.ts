/** A reward by name: one of ours, or a JavaScript module of the user's. */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { Device } from "../torch/index.js";
import { clipScore } from "./clip-score.js";
import { checkRewards, RewardError, type Reward } from "./reward.js";
import { brightness, jpegCompressibility } from "./simple.js";

export interface RewardSpec {
  /**
   * `clip-score`, `jpeg-compressibility`, `brightness`, `clip:<folder>`, or the path of a module whose default export
   * is `(images, prompts) => numbers`.
   */
  readonly name: string;
  /** CLIP's folder, for `clip-score`. */
  readonly model?: string;
  readonly device?: Device;
}

const NAMES = "clip-score, jpeg-compressibility, brightness, clip:<folder> or the path of a JavaScript module";

/**
 * The reward, with what it returns checked at every call.
 *
 * @throws RewardError when there is none of that name
 */
export async function loadReward(spec: string | RewardSpec): Promise<Reward> {
  const given: RewardSpec = typeof spec === "string" ? { name: spec } : spec;
  const { name, model, device = "cpu" } = given;
  const reward = await find(name, model, device);
  return async (images, prompts) => checkRewards(await reward(images, prompts), prompts, name);
}

async function find(name: string, model: string | undefined, device: Device): Promise<Reward> {
  if (name.startsWith("clip:")) return clipScore({ model: name.slice("clip:".length), device });
  switch (name) {
    case "clip-score":
      if (model === undefined)
        throw new RewardError("Expected a CLIP folder for model of clip-score but received none");
      return clipScore({ model, device });
    case "brightness":
      return brightness;
    case "jpeg-compressibility":
      return jpegCompressibility;
    default:
      return importReward(name);
  }
}

async function importReward(path: string): Promise<Reward> {
  const file = resolve(path);
  if (!existsSync(file)) throw new RewardError(`Expected ${NAMES} for the reward but received ${path}`);
  let module: { default?: unknown };
  try {
    module = (await import(pathToFileURL(file).href)) as { default?: unknown };
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new RewardError(`Expected a JavaScript module for the reward but ${path} says: ${message}`, { cause });
  }
  if (typeof module.default !== "function") {
    throw new RewardError(`Expected a function as default export of ${path} but received ${typeof module.default}`);
  }
  return module.default as Reward;
}
