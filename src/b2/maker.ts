/** What computes a run: versions, processor, threads and device, on which its bits depend. */
import { cpus } from "node:os";
import { join } from "node:path";
import { readJsonObject } from "../base/files.js";
import { packageRoot } from "../base/package-root.js";
import { show } from "../base/show.js";
import type { Maker } from "../runs/index.js";
import { numThreads, torchVersion } from "../torch/index.js";
import type { Config } from "./config/schema.js";

/** What computes a config here and now. */
export function makerOf({ model }: Pick<Config, "model">): Maker {
  const { version } = readJsonObject(join(packageRoot(), "package.json"));
  return {
    b2: String(version),
    libtorch: torchVersion(),
    processor: cpus()[0]?.model.trim() ?? process.arch,
    threads: model.threads ?? numThreads(),
    device: model.device,
  };
}

const NAMES = ["b2", "libtorch", "processor", "threads", "device"] as const;

/** In what two makers differ, as text: `libtorch "1.13.1" -> "2.13.0"`. */
export function makerChanges(before: Maker, after: Maker): string[] {
  return NAMES.filter((name) => before[name] !== after[name]).map(
    (name) => `${name} ${show(before[name], 60)} -> ${show(after[name], 60)}`,
  );
}
