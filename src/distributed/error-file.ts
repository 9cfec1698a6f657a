/**
 * torchrun's error file: a worker that fails writes there why, and torchrun prints it in its table of failures.
 * Source: torch/distributed/elastic/multiprocessing/errors.
 */
import { writeFileAtomic } from "../base/files.js";
import type { Environment } from "./environment.js";

/** Writes why this worker fails to TORCHELASTIC_ERROR_FILE, if torchrun has named one. Does not throw. */
export function writeErrorFile(message: string, environment: Environment = process.env): void {
  const file = environment["TORCHELASTIC_ERROR_FILE"];
  if (file === undefined || file === "") return;
  const timestamp = String(Math.floor(Date.now() / 1000));
  try {
    writeFileAtomic(file, JSON.stringify({ message: { message, extraInfo: { timestamp } } }));
  } catch {
    // The message is on stderr as well.
  }
}
