/** Scores images a batch at a time, which bounds memory, and lets other work in between. */
import { chunks } from "../base/chunks.js";
import { tidy, yieldToEventLoop, type Tensor } from "../torch/index.js";

const IMAGES_AT_ONCE = 64;

/** @param scoresOf the scores [B] of a batch of images and their prompts; its temporaries are freed */
export async function inBatches(
  images: Tensor,
  prompts: readonly string[],
  scoresOf: (images: Tensor, prompts: readonly string[]) => Tensor,
): Promise<number[]> {
  const scores: number[] = [];
  for (const [start, length] of chunks(prompts.length, IMAGES_AT_ONCE)) {
    const some = prompts.slice(start, start + length);
    scores.push(...tidy(() => scoresOf(images.narrow(0, start, length), some).toArray()));
    await yieldToEventLoop();
  }
  return scores;
}
