/** Answers for many images: those that are known, and the others in batches, side by side. */
import { chunks } from "../../base/chunks.js";
import type { AnswerCache } from "./answer-cache.js";

/**
 * Answers in the order of their keys. Equal keys are asked for once. If one batch fails, the others are stopped.
 *
 * @param keys of the answers, see `cacheKey`
 * @param batchSize images in one request
 * @param ask the answers for images by their indices
 * @throws what `ask` throws, after all requests have ended
 */
export async function collect<V extends number | string>(
  keys: readonly string[],
  batchSize: number,
  cache: AnswerCache<V>,
  signal: AbortSignal | undefined,
  ask: (indices: readonly number[], signal: AbortSignal) => Promise<readonly V[]>,
): Promise<V[]> {
  const answers = new Map<string, V>();
  const missing = new Map<string, number>();
  keys.forEach((key, index) => {
    const known = cache.get(key);
    if (known !== undefined) answers.set(key, known);
    else if (!missing.has(key)) missing.set(key, index);
  });
  const indices = [...missing.values()];
  await together([...chunks(indices.length, batchSize)], signal, async ([start, length], inner) => {
    const batch = indices.slice(start, start + length);
    const values = await ask(batch, inner);
    batch.forEach((index, i) => {
      answers.set(keys[index]!, values[i]!);
      cache.set(keys[index]!, values[i]!);
    });
  });
  return keys.map((key) => answers.get(key)!);
}

/** Runs a task for each item at the same time; the first failure stops the others and is thrown when all have ended. */
async function together<I>(
  items: readonly I[],
  signal: AbortSignal | undefined,
  task: (item: I, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const controller = new AbortController();
  const abort = (): void => controller.abort(signal?.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort, { once: true });
  const failures: unknown[] = [];
  const guarded = async (item: I): Promise<void> => {
    try {
      await task(item, controller.signal);
    } catch (error) {
      failures.push(error);
      controller.abort();
    }
  };
  await Promise.all(items.map(guarded));
  signal?.removeEventListener("abort", abort);
  if (failures.length > 0) throw failures[0];
}
