/**
 * Finds models by path: a folder or file relative to the working folder, one that ships with the package, or a name on
 * the hub, which is looked up in the cache and downloaded into it.
 */
import { existsSync } from "node:fs";
import { isAbsolute, join, resolve } from "node:path";
import { InputError } from "../base/errors.js";
import { packageRoot } from "../base/package-root.js";
import { isPickle, pickleRefused } from "../base/pickle.js";
import type { ProgressTask, RunContext } from "../base/progress.js";
import { HubError } from "./error.js";
import type { Wanted } from "./files.js";
import { cachedModel, downloadModel, parseHubName } from "./hub.js";

/** Which revision, variant and files of a model on the hub. */
export interface HubForm extends Partial<Omit<Wanted, "variant" | "file">> {
  readonly revision?: string | null | undefined;
  readonly variant?: string | null | undefined;
}

/**
 * The local folder or file of a model, without downloading.
 *
 * @throws InputError when there is none, naming the places searched, and for a pickle
 */
export function resolveModel(path: string, { revision }: Pick<HubForm, "revision"> = {}): string {
  if (isPickle(path)) throw new InputError(pickleRefused(path));
  const found = findModel(path, { revision });
  if (found !== undefined) return found;
  const hub = parseHubName(path) === undefined ? "" : ", and in the hub's cache (`b2 download` fetches it)";
  throw new InputError(
    `Expected a model folder but received ${path}; looked for ${localPlaces(path).join(" and ")}${hub}`,
  );
}

/** Like resolveModel, but returns undefined if the model is not on this machine. */
export const findModel = (path: string, { revision }: Pick<HubForm, "revision"> = {}): string | undefined =>
  localPlaces(path).find((place) => existsSync(place)) ?? cachedModel(path, { revision: revision ?? undefined });

/**
 * Downloads a model by its hub name, unless a local folder has that path.
 *
 * @returns the local path
 * @throws InputError when it is neither on this machine nor available from the hub
 */
export async function fetchModel(path: string, form: HubForm, { progress, signal }: RunContext): Promise<string> {
  const isLocal = localPlaces(path).some((place) => existsSync(place));
  if (isLocal || parseHubName(path) === undefined) return resolveModel(path);
  const { revision, variant, ...wanted } = form;
  let task: ProgressTask | undefined;
  let [bytes, reported] = [0, 0];
  try {
    return await downloadModel(path, {
      ...wanted,
      signal,
      revision: revision ?? undefined,
      variant: variant ?? undefined,
      onStart: (files, total) => {
        if (files === 0) return;
        progress.log(`downloading ${files} files of ${path}`);
        task = progress.task(path, Math.ceil(total / 1e6), "MB");
      },
      onBytes: (amount) => {
        bytes += amount;
        const whole = Math.floor(bytes / 1e6);
        if (whole !== reported) task?.advance(whole - reported);
        reported = whole;
      },
    });
  } catch (error) {
    if (!(error instanceof HubError)) throw error;
    const places = localPlaces(path).join(" and ");
    throw new InputError(
      `Expected a model folder but received ${path}; looked for ${places}, and on the hub. ${error.message}`,
      { cause: error },
    );
  } finally {
    task?.done();
  }
}

function localPlaces(path: string): string[] {
  return isAbsolute(path) ? [path] : [...new Set([resolve(path), join(packageRoot(), path)])];
}
