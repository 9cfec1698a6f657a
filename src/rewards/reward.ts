/** What a reward is: one number an image, higher for better, known only when the image is finished. */
import { InputError } from "../base/errors.js";
import type { Tensor } from "../torch/index.js";

/**
 * @param images [B, 3, H, W] in 0..1, the caller's to dispose
 * @param prompts one for each image
 * @returns one finite number for each image
 */
export type Reward = (images: Tensor, prompts: string[]) => readonly number[] | Promise<readonly number[]>;

/** A reward that cannot be loaded, or does not give what it should. */
export class RewardError extends InputError {
  override readonly name = "RewardError";
}

/**
 * What a reward returned, as numbers.
 *
 * @throws RewardError when that is not one finite number for each prompt
 */
export function checkRewards(values: unknown, prompts: readonly string[], name = "the reward"): number[] {
  const isList = Array.isArray(values) || (ArrayBuffer.isView(values) && !(values instanceof DataView));
  const list = isList ? Array.from(values as ArrayLike<unknown>) : undefined;
  if (list?.length !== prompts.length) {
    const received = list === undefined ? typeof values : `${list.length}`;
    throw new RewardError(`Expected ${prompts.length} numbers, one an image, from ${name} but received ${received}`);
  }
  list.forEach((value, i) => {
    if (typeof value === "number" && Number.isFinite(value)) return;
    throw new RewardError(
      `Expected a finite number from ${name} but received ${String(value)} for image ${i}, ${JSON.stringify(prompts[i])}`,
    );
  });
  return list as number[];
}
