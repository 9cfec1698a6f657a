/** Which images of a stage are kept, and their file names. */
import { stageFiles } from "../../runs/index.js";
import type { SampleKey } from "../records.js";

/**
 * The file of every sample's image in its stage's folder; undefined for those that are not kept.
 *
 * @param most maximum number of images to keep, evenly spread over the stage
 */
export function imageNames(keys: readonly SampleKey[], most: number): (string | undefined)[] {
  const n = keys.length;
  const kept = Math.min(most, n);
  const before = (sample: number): number => Math.floor((sample * kept) / n);
  return keys.map(({ root, branch }, i) =>
    before(i + 1) > before(i) ? `${stageFiles.images}/${String(root).padStart(4, "0")}-${branch}.png` : undefined,
  );
}
