/** Decodes latents in batches that fit into memory. */
import { InputError } from "../../base/errors.js";
import { checkInterrupted, silent, type Progress } from "../../base/progress.js";
import { allFinite, inference, yieldToEventLoop, type Tensor } from "../../torch/index.js";
import type { Policy } from "../policy/policy.js";

/** How many images to decode at once, and what stops between two batches. */
export interface DecodeOptions {
  readonly batchSize: number;
  readonly signal?: AbortSignal | undefined;
  /** Is told where memory does not suffice. Default: silent. */
  readonly progress?: Progress;
  /** How many batches may still be in use while the next one is decoded. Default 0. */
  readonly ahead?: number;
}

/** Whoever uses the images reports progress. */
const UNTOLD = silent.task("", 0, "");

const NOT_FINITE =
  "Expected images of numbers from the model but received NaN or infinity: its weights ran away (lower " +
  "train.learningRate and begin a new run), sample.guidanceScale is too large, or model.computeDtype overflows (float32 does not)";

/**
 * Decodes latents batch by batch.
 *
 * @param latents [n, ...latent], not disposed of
 * @param use called with images [B, 3, H, W] in 0..1, which are freed when it is done, and the index of the first
 * @throws Interrupted when the signal aborts; InputError for images that are no numbers, which rewards may not notice
 */
export async function decodeInBatches(
  policy: Policy,
  latents: Tensor,
  { batchSize, signal, progress = silent, ahead = 0 }: DecodeOptions,
  use: (images: Tensor, start: number) => void | Promise<void>,
): Promise<void> {
  const inUse: Promise<void>[] = [];
  try {
    const work = { key: "sample.decodeBatchSize", total: latents.size(0), size: batchSize, progress } as const;
    const make = (start: number, length: number): Promise<Tensor> => {
      checkInterrupted(signal);
      return Promise.resolve(inference(() => policy.decode(latents.narrow(0, start, length))));
    };
    await policy.batches.each(work, UNTOLD, make, async (images, start) => {
      inUse.push(useAndFree(images, (images) => use(images, start)));
      if (inUse.length > ahead) await inUse.shift();
      await yieldToEventLoop();
    });
    while (inUse.length > 0) await inUse.shift();
  } finally {
    await Promise.allSettled(inUse);
  }
}

function useAndFree(images: Tensor, use: (images: Tensor) => void | Promise<void>): Promise<void> {
  const used = (async () => {
    try {
      if (!allFinite(images)) throw new InputError(NOT_FINITE);
      await use(images);
    } finally {
      images.dispose();
    }
  })();
  // Whoever waits for it is told; until then it is nobody's.
  used.catch(() => undefined);
  return used;
}
