/** Answers of a server by what was asked, least recently used first. Bounded in number and in length. */
import { createHash } from "node:crypto";

/** Longer texts are not remembered. */
const LONGEST = 10_000;

export class AnswerCache<V extends number | string> {
  readonly #size: number;
  readonly #answers = new Map<string, V>();

  /** @param size how many answers to keep; 0 for none */
  constructor(size: number) {
    this.#size = size;
  }

  get(key: string): V | undefined {
    const known = this.#answers.get(key);
    if (known !== undefined) {
      this.#answers.delete(key);
      this.#answers.set(key, known);
    }
    return known;
  }

  set(key: string, answer: V): void {
    if (this.#size === 0 || (typeof answer === "string" && answer.length > LONGEST)) return;
    this.#answers.delete(key);
    this.#answers.set(key, answer);
    if (this.#answers.size <= this.#size) return;
    const [oldest] = this.#answers.keys();
    this.#answers.delete(oldest!);
  }
}

/** The key of an answer: a hash of the image, and of all else that decides what a server says of it. */
export const cacheKey = (image: Uint8Array, ...others: readonly unknown[]): string =>
  createHash("sha256").update(JSON.stringify(others)).update("\0").update(image).digest("base64");
