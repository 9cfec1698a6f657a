/** What a run folder holds, without what differs between two runs that compute the same: times and sizes in memory. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";

/** Keys of JSON files that hold times, sizes in memory, or what lost attempts have cost. */
const VARY = new Set([
  "createdAt",
  "at",
  "seconds",
  "secondsSample",
  "secondsScore",
  "secondsTrain",
  "imagesPerSecond",
  "pairsPerSecond",
  "liveTensors",
  "residentMegabytes",
  "deviceMegabytes",
  "cost",
]);

const withoutTimes = (text: string): string =>
  JSON.stringify(JSON.parse(text, (key, value: unknown) => (VARY.has(key) ? undefined : value)));

/** Every file of a run folder by its path in it: JSON without what varies, the digest of anything else. */
export function runContents(folder: string): Record<string, string> {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  const files = entries.map(({ parentPath, name }) => join(parentPath, name)).sort();
  return Object.fromEntries(files.map((file) => [relative(folder, file), contentOf(file)]));
}

function contentOf(file: string): string {
  const bytes = readFileSync(file);
  if (file.endsWith(".json")) return withoutTimes(bytes.toString());
  if (file.endsWith(".jsonl")) return bytes.toString().trimEnd().split("\n").map(withoutTimes).join("\n");
  return createHash("sha256").update(bytes).digest("hex");
}
