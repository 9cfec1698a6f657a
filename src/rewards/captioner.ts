/** What describes images in words, for rewards that compare the words with the prompt. */
import type { Tensor } from "../torch/index.js";

export interface Captioner {
  /**
   * @param images float32 [B, 3, H, W] in 0..1; not used any more once this has returned its promise
   * @returns one text for each image, which may be empty
   */
  caption(images: Tensor, signal?: AbortSignal): Promise<string[]>;
}
