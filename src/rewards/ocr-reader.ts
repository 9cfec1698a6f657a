/**
 * Reads text off images with tesseract.js: Tesseract compiled to WebAssembly, in threads. It and its English data are
 * packages of their own, which only those install who use them; nothing is downloaded here.
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import type { Worker as Thread } from "node:worker_threads";
import type { Worker } from "tesseract.js";
import { RewardError } from "./error.js";

/** The packages, in the versions that this was written for. */
const PACKAGES = ["tesseract.js", "@tesseract.js-data/eng"] as const;
const INSTALL = "npm install tesseract.js@7 @tesseract.js-data/eng@1";

const require = createRequire(import.meta.url);

/** The folder of an installed package; undefined if it is not installed. */
function folderOf(name: string): string | undefined {
  try {
    return dirname(require.resolve(`${name}/package.json`));
  } catch {
    return undefined;
  }
}

/** A sentence for people where packages are missing, else nothing. */
export function missingReader(): string[] {
  const missing = PACKAGES.filter((name) => folderOf(name) === undefined);
  if (missing.length === 0) return [];
  return [`Expected ${missing.join(" and ")} for the reward ocr but not installed: run ${INSTALL}`];
}

/** Threads that read. Images wait until one is free. */
export class TextReader {
  readonly #readers: readonly ReadingThread[];

  private constructor(readers: readonly ReadingThread[]) {
    this.#readers = readers;
  }

  /** @throws RewardError for packages that are missing or damaged */
  static async open(threads: number): Promise<TextReader> {
    const [missing] = missingReader();
    if (missing !== undefined) throw new RewardError(missing);
    const readers: ReadingThread[] = [];
    try {
      while (readers.length < threads) readers.push(await openThread());
    } catch (cause) {
      new TextReader(readers).dispose();
      throw new RewardError(`Expected ${PACKAGES.join(" and ")} to load but: ${reasonOf(cause)}`, { cause });
    }
    return new TextReader(readers);
  }

  /**
   * The text of each image, lines and words as Tesseract finds them.
   *
   * @param pictures PNG files
   * @param before called before each image is read; what it throws ends the work
   * @throws RewardError where Tesseract fails on an image
   */
  async read(pictures: readonly Uint8Array[], before: () => void): Promise<string[]> {
    const texts: string[] = [];
    let next = 0;
    const work = async (reader: ReadingThread): Promise<void> => {
      while (next < pictures.length) {
        before();
        const i = next++;
        texts[i] = await textOf(reader, pictures[i]!);
      }
    };
    try {
      await Promise.all(this.#readers.map(work));
    } finally {
      next = pictures.length; // the other threads stop too
    }
    return texts;
  }

  /** Ends the threads. */
  dispose(): void {
    for (const { worker } of this.#readers) void worker.terminate();
  }
}

/** Tesseract in a thread, and the thread's end if it is none that was asked for. */
interface ReadingThread {
  readonly worker: Worker;
  readonly died: Promise<never>;
}

async function textOf({ worker, died }: ReadingThread, picture: Uint8Array): Promise<string> {
  try {
    const { data } = await Promise.race([worker.recognize(Buffer.from(picture), {}, { text: true }), died]);
    return data.text;
  } catch (cause) {
    throw new RewardError(`Expected the reader of ocr to read the image but it failed: ${reasonOf(cause)}`, { cause });
  }
}

/**
 * Starts a thread with Tesseract's neural network and the English data in it. One at a time: tesseract.js tells nobody
 * about the thread of a worker that does not open, and its createWorker never answers then.
 */
async function openThread(): Promise<ReadingThread> {
  const { createWorker, OEM } = (await import("tesseract.js")).default;
  const langPath = join(folderOf("@tesseract.js-data/eng")!, "4.0.0_best_int");
  let fail: (reason: unknown) => void = () => undefined;
  const died = new Promise<never>((_, reject) => (fail = reject));
  died.catch(() => undefined);
  let thread: Thread | undefined;
  const onThread = (started: Thread): void => void (thread = started.once("error", fail));
  process.once("worker", onThread);
  let isOpen = false;
  // Also told of images that cannot be read, of which recognize tells by itself.
  const errorHandler = (reason: unknown): void => (isOpen ? undefined : fail(reason));
  try {
    const options = { langPath, gzip: true, cacheMethod: "none", errorHandler };
    const worker = await Promise.race([createWorker("eng", OEM.LSTM_ONLY, options), died]);
    isOpen = true;
    // Words of one image must not change how the next one is read.
    await worker.setParameters({ tessedit_enable_doc_dict: "0" });
    return { worker, died };
  } catch (error) {
    await thread?.terminate();
    throw error;
  } finally {
    process.off("worker", onThread);
  }
}

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
