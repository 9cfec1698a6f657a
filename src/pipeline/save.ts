/** Writes Stable Diffusion's parts as a diffusers folder. */
import { existsSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { makeFolder, writeJson } from "../base/files.js";
import { ModelConfigError } from "../models/index.js";
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
 * @throws ModelConfigError unless the folder is empty or new
 */
export function saveParts(parts: Parts, folder: string): void {
  expectNewFolder(folder);
  const target = resolve(folder);
  const temporary = join(dirname(target), `.${basename(target)}.${process.pid}.tmp`);
  const at = (part: string) => join(temporary, part);
  try {
    makeFolder(temporary);
    parts.unet.savePretrained(at("unet"));
    parts.vae.savePretrained(at("vae"));
    parts.textEncoder.savePretrained(at("text_encoder"));
    parts.tokenizer.savePretrained(at("tokenizer"));
    parts.textEncoder2?.savePretrained(at("text_encoder_2"));
    parts.tokenizer2?.savePretrained(at("tokenizer_2"));
    const scheduler = parts.scheduler.toConfig();
    writeJson(join(at("scheduler"), "scheduler_config.json"), scheduler);
    writeModelIndex(temporary, parts.index, scheduler["_class_name"]);
    rmSync(target, { recursive: true, force: true });
    renameSync(temporary, target);
  } catch (error) {
    rmSync(temporary, { recursive: true, force: true });
    throw error;
  }
}
