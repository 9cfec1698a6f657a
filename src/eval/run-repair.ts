/**
 * Repairs what a check has found, where that loses nothing: leftovers are deleted, metrics.jsonl is written again, and what
 * is damaged but can be made again is moved into the folder `set-aside` of the run.
 */
import { existsSync, lstatSync, renameSync, rmSync } from "node:fs";
import { dirname, join } from "node:path";
import { makeFolder, syncFolder, writeJsonLines } from "../base/files.js";
import { layout, RunReader, RunWriter, SET_ASIDE } from "../runs/index.js";
import { checkRun, type Finding, type RunCheck } from "./run-check.js";

/** What a repair has done. */
export interface RunRepair extends RunCheck {
  /** What was wrong and is not any more. */
  readonly repaired: readonly Finding[];
}

/**
 * Checks a run and repairs what can be.
 *
 * @returns what is left to be done by hand
 * @throws InputError when a process works on the run
 */
export function repairRun(folder: string): RunRepair {
  const { findings } = checkRun(folder);
  const repaired = findings.filter(({ remedy }) => remedy !== null);
  // A run that this version cannot read is not touched at all.
  if (repaired.length === 0) return { ...checkRun(folder), repaired };
  const lock = RunWriter.lock(folder);
  try {
    for (const finding of repaired) repair(folder, finding);
    syncFolder(folder);
  } finally {
    lock.release();
  }
  return { ...checkRun(folder), repaired };
}

function repair(folder: string, { path, remedy }: Finding): void {
  const at = join(folder, path);
  // The lock was taken over, and is released.
  if (at === layout.lock(folder)) return;
  switch (remedy) {
    case "remove":
      rmSync(at, { recursive: true, force: true });
      return;
    case "set aside":
      setAside(folder, path);
      return;
    case "rewrite":
      if (existsSync(at)) setAside(folder, path);
      writeJsonLines(at, new RunReader(folder).metrics());
      return;
    case null:
      return;
    default:
      remedy satisfies never;
  }
}

/** Moves a file to the same path below `set-aside`, beside what lies there already. */
function setAside(folder: string, path: string): void {
  const from = join(folder, path);
  // Perhaps it went with its folder.
  if (!existsSync(from)) return;
  const target = join(folder, SET_ASIDE, path);
  makeFolder(dirname(target));
  let free = target;
  for (let i = 2; lstatSync(free, { throwIfNoEntry: false }) !== undefined; i++) free = `${target}.${i}`;
  renameSync(from, free);
  syncFolder(dirname(free));
  syncFolder(dirname(from));
}
