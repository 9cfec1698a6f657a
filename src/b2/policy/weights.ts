/** Finds trained weights by path: run folders, LoRA files of any origin, names on the hub. */
import { existsSync, statSync } from "node:fs";
import { InputError } from "../../base/errors.js";
import { isPickle, pickleRefused } from "../../base/pickle.js";
import type { RunContext } from "../../base/progress.js";
import { fetchModel, parseHubName } from "../../hub/index.js";
import { LORA_FILE_NAMES, loraFileIn } from "../../lora/index.js";
import { RunReader } from "../../runs/index.js";
import type { InferenceWeights, WeightedLora } from "./policy.js";

/** A path to weights, and the factor they are added with. */
export interface NamedWeights {
  readonly path: string;
  readonly weight: number;
}

/**
 * The weights of a run's latest stage, or their moving average where the run keeps one: a LoRA file, or the folder of a
 * whole denoiser.
 */
export interface RunWeights {
  readonly kind: "lora" | "denoiser";
  readonly path: string;
}

/** @throws InputError when the run has no finished stage */
export function weightsOfRun(folder: string): RunWeights {
  const run = new RunReader(folder);
  const last = run.finishedStages().at(-1);
  if (last === undefined) throw new InputError(`Expected a run with a finished stage but received ${folder}`);
  const kind = run.has(last, "denoiser") ? "denoiser" : "lora";
  if (!run.has(last, "ema")) return { kind, path: run.stagePath(last, kind) };
  const average = run.stagePath(last, "ema");
  return { kind, path: kind === "lora" ? loraFileIn(average)! : average };
}

/** Checks that weights can be found, before anything is downloaded. @throws InputError, as findWeights does */
export function expectWeights(named: readonly NamedWeights[]): void {
  for (const { path } of named) {
    if (RunReader.exists(path)) weightsOfRun(path);
    else expectLora(path);
  }
}

/**
 * Finds the files of the weights, and downloads LoRAs named by their hub names.
 *
 * @throws InputError when a path is neither a run nor a LoRA, or when a whole denoiser is given a weight or given twice
 */
export async function findWeights(named: readonly NamedWeights[], context: RunContext): Promise<InferenceWeights> {
  expectWeights(named);
  const loras: WeightedLora[] = [];
  let denoiser: string | undefined;
  for (const { path, weight } of named) {
    const found: RunWeights = RunReader.exists(path)
      ? weightsOfRun(path)
      : { kind: "lora", path: await loraFile(path, context) };
    if (found.kind === "lora") loras.push({ file: found.path, weight });
    else if (weight === 1 && denoiser === undefined) denoiser = found.path;
    else {
      throw new InputError(
        `Expected one run that trained the whole model, without a weight, but received ${path} with ${weight}`,
      );
    }
  }
  return { loras, denoiser };
}

function expectLora(path: string): void {
  if (isPickle(path)) throw new InputError(pickleRefused(path));
  if (loraFileIn(path) !== undefined) return;
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) {
    throw new InputError(
      `Expected a run folder, or a folder with ${LORA_FILE_NAMES.join(" or ")}, for --lora but received ${path}, which is neither`,
    );
  }
  if (existsSync(path) || parseHubName(path) !== undefined) return;
  throw new InputError(`Expected a run folder, a LoRA file or a name on the hub for --lora but received ${path}`);
}

async function loraFile(path: string, context: RunContext): Promise<string> {
  const inFolder = loraFileIn(path);
  if (inFolder !== undefined) return inFolder;
  return existsSync(path) ? path : fetchModel(path, { purpose: "weights" }, context);
}
