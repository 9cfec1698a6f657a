/** Counts how often images pass through the denoiser. */
import { isGradEnabled } from "../../torch/index.js";

/** Passes since the policy was loaded, of one image each; the two passes of a guided prediction count apart. */
export class PassCounter {
  #forward = 0;
  #recorded = 0;
  #backward = 0;

  get forward(): number {
    return this.#forward;
  }

  get backward(): number {
    return this.#backward;
  }

  /** Counts a prediction for `images` images. */
  predicted(images: number): void {
    this.#forward += images;
    if (isGradEnabled()) this.#recorded += images;
  }

  /** Runs `work`, which goes forward and backward, and counts its predictions with gradient as backward passes. */
  trained<T>(work: () => T): T {
    const before = this.#recorded;
    const result = work();
    this.#backward += this.#recorded - before;
    return result;
  }
}
