/** Writes the parts of a pipeline as a diffusers folder. */
import { existsSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { makeFolder, writeJson } from "../base/files.js";
import { ModelConfigError } from "../models/index.js";
import type { Scheduler } from "../schedulers/index.js";
import { writeModelIndex } from "./model-index.js";
import type { Parts } from "./parts.js";

/** Checks that a model can be written to a folder. @throws ModelConfigError unless it is empty or new */
export function expectNewFolder(folder: string): void {
  if (existsSync(folder) && !(statSync(folder).isDirectory() && readdirSync(folder).length === 0)) {
    throw new ModelConfigError(`Expected an empty or new folder to write a model to but received ${folder}`);
  }
}

/**
 * Writes a diffusers folder, atomically.
 *
 * @param write writes the parts into the folder that it gets, which takes the name of the other one afterwards
 * @throws ModelConfigError unless the folder is empty or new
 */
export function writeFolder(folder: string, write: (temporary: string) => void): void {
  expectNewFolder(folder);
  const target = resolve(folder);
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.tmp`);
  try {
    makeFolder(temporary);
    write(temporary);
    rmSync(target, { recursive: true, force: true });
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
}

/** Writes the scheduler's folder of a pipeline's folder. @returns its class, for the index */
export function saveScheduler(scheduler: Scheduler, folder: string): unknown {
  const config = scheduler.toConfig();
  writeJson(join(folder, "scheduler/scheduler_config.json"), config);
  return config["_class_name"];
}

/** Writes Stable Diffusion 1, 2 or XL. @throws ModelConfigError unless the folder is empty or new */
export function saveParts(parts: Parts, folder: string): void {
  writeFolder(folder, (temporary) => {
    const at = (part: string) => join(temporary, part);
    parts.unet.savePretrained(at("unet"));
    parts.vae.savePretrained(at("vae"));
    parts.textEncoder.savePretrained(at("text_encoder"));
    parts.tokenizer.savePretrained(at("tokenizer"));
    parts.textEncoder2?.savePretrained(at("text_encoder_2"));
    parts.tokenizer2?.savePretrained(at("tokenizer_2"));
    writeModelIndex(temporary, parts.index, saveScheduler(parts.scheduler, temporary));
  });
}
