/** Slurm's short form of host names: `n[001-004,7],login`. */
import { show } from "../base/show.js";
import { WorkerError } from "./error.js";

/** The first host of a list in Slurm's short form. @throws WorkerError for a list of another form */
export function firstHost(list: string): string {
  const [, before, ranges, after] = /^([^,[\]]+)(?:\[([^\]]+)\])?([^,[\]]*)/.exec(list) ?? [];
  if (before === undefined) {
    throw new WorkerError(`Expected host names such as n[001-004] for SLURM_JOB_NODELIST but received ${show(list)}`);
  }
  const first = ranges?.split(/[-,]/, 1)[0] ?? "";
  return `${before}${first}${after ?? ""}`;
}
