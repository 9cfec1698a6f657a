/** How much of the machine this process may use. */
import { existsSync, readFileSync, statfsSync } from "node:fs";
import { totalmem } from "node:os";
import { dirname, join } from "node:path";

const CGROUPS = "/sys/fs/cgroup";

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** A folder and all above it, up to the root. */
const upwards = (folder: string): string[] =>
  folder === dirname(folder) ? [folder] : [folder, ...upwards(dirname(folder))];

/** The CPUs that Linux' control groups allow, as `docker run --cpus=2` sets them; undefined where nothing limits them. */
export function cgroupCpus(): number | undefined {
  const lines = read("/proc/self/cgroup")?.split("\n") ?? [];
  const pathOf = (controllers: RegExp): string => lines.map((line) => controllers.exec(line)?.[1]).find(Boolean) ?? "/";
  const second = upwards(pathOf(/^0::(\/.*)$/)).map((path) => read(join(CGROUPS, path, "cpu.max"))?.split(" "));
  const first = upwards(pathOf(/^\d+:(?:.*,)?cpu(?:,.*)?:(\/.*)$/)).map((path) =>
    ["quota", "period"].map((value) => read(join(CGROUPS, "cpu", path, `cpu.cfs_${value}_us`)) ?? ""),
  );
  const limits = [...second, ...first].map((limit) => Number(limit?.[0]) / Number(limit?.[1]));
  const set = limits.filter((cpus) => cpus > 0 && Number.isFinite(cpus));
  return set.length === 0 ? undefined : Math.min(...set);
}

export interface Memory {
  readonly total: number;
  readonly available: number;
  /** What a control group allows; undefined where nothing limits it. */
  readonly limit: number | undefined;
}

/** Main memory in bytes. */
export function memory(): Memory {
  const total = totalmem();
  const constrained = process.constrainedMemory();
  const limit = constrained > 0 && constrained < total ? constrained : undefined;
  return { total, available: process.availableMemory(), limit };
}

/** The nearest folder that exists, and the bytes that are free there. */
export function disk(folder: string): { readonly folder: string; readonly free: number } {
  const existing = upwards(folder).find((path) => existsSync(path))!;
  const { bavail, bsize } = statfsSync(existing);
  return { folder: existing, free: bavail * bsize };
}
