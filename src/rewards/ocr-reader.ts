/**
 * Reads text off images with tesseract.js: Tesseract compiled to WebAssembly, in threads. It and its English data are
 * packages of their own, which only those install who use them; nothing is downloaded here.
 */
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
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
  readonly #workers: readonly Worker[];

  private constructor(workers: readonly Worker[]) {
    this.#workers = workers;
  }

  /** @throws RewardError for packages that are missing or damaged */
  static async open(threads: number): Promise<TextReader> {
    const [missing] = missingReader();
    if (missing !== undefined) throw new RewardError(missing);
    const opened = await Promise.allSettled(Array.from({ length: threads }, () => openWorker()));
    const workers = opened.flatMap((one) => (one.status === "fulfilled" ? [one.value] : []));
    const reader = new TextReader(workers);
    const failed = opened.find((one) => one.status === "rejected");
    if (failed === undefined) return reader;
    reader.dispose();
    throw new RewardError(`Expected ${PACKAGES.join(" and ")} to load but: ${reasonOf(failed.reason)}`);
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
    const work = async (worker: Worker): Promise<void> => {
      while (next < pictures.length) {
        before();
        const i = next++;
        texts[i] = await textOf(worker, pictures[i]!);
      }
    };
    try {
      await Promise.all(this.#workers.map(work));
    } finally {
      next = pictures.length; // the other threads stop too
    }
    return texts;
  }

  /** Ends the threads. */
  dispose(): void {
    for (const worker of this.#workers) void worker.terminate();
  }
}

async function textOf(worker: Worker, picture: Uint8Array): Promise<string> {
  try {
    const { data } = await worker.recognize(Buffer.from(picture), {}, { text: true });
    return data.text;
  } catch (cause) {
    throw new RewardError(`Expected the reader of ocr to read the image but it failed: ${reasonOf(cause)}`, { cause });
  }
}

/** A thread with Tesseract's neural network (engine 1) and the English data in it. */
async function openWorker(): Promise<Worker> {
  const { createWorker, OEM } = await import("tesseract.js");
  const langPath = join(folderOf("@tesseract.js-data/eng")!, "4.0.0_best_int");
  // createWorker itself never answers where the data is missing or damaged; errorHandler hears of it.
  const worker = await new Promise<Worker>((resolve, reject) => {
    const options = { langPath, gzip: true, cacheMethod: "none", errorHandler: reject };
    createWorker("eng", OEM.LSTM_ONLY, options).then(resolve, reject);
  });
  // Words of one image must not change how the next one is read.
  await worker.setParameters({ tessedit_enable_doc_dict: "0" });
  return worker;
}

const reasonOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
