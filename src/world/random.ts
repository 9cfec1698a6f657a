/**
 * A small seeded random number source for drawing scenes and images: "sfc32" (Chris Doty-Humphrey's
 * Small Fast Chaotic generator, 128 bits of state). It is used where numbers are wanted one at a time in
 * plain JavaScript; noise for tensors comes from src/torch's Generator.
 */
export class Random {
  #a: number;
  #b: number;
  #c: number;
  #counter: number;

  /** @param seed any finite number; the same seed gives the same numbers on every machine. */
  constructor(seed: number) {
    if (!Number.isFinite(seed)) throw new RangeError(`Expected a finite number for seed but received ${seed}`);
    this.#a = Math.floor(seed) | 0;
    this.#b = Math.floor(seed / 2 ** 32) | 0;
    this.#c = 0x9e3779b9 | 0;
    this.#counter = 1;
    for (let i = 0; i < 15; i++) this.uint32();
  }

  /** The next 32 bits as a whole number in [0, 2^32). */
  uint32(): number {
    const t = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + t) | 0;
    return t >>> 0;
  }

  /** A number in [0, 1). */
  uniform(): number {
    return this.uint32() / 2 ** 32;
  }

  /** A number in [low, high). */
  between(low: number, high: number): number {
    return low + (high - low) * this.uniform();
  }

  /** A whole number in [0, count). */
  below(count: number): number {
    return Math.floor(this.uniform() * count);
  }

  /** One item of a list that is not empty. */
  pick<T>(items: readonly T[]): T {
    if (items.length === 0) throw new RangeError("Expected a list with at least one item but received an empty one");
    return items[this.below(items.length)]!;
  }

  /** The items in a new, uniformly random order (Fisher-Yates). */
  shuffled<T>(items: readonly T[]): T[] {
    const result = [...items];
    for (let i = result.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [result[i], result[j]] = [result[j]!, result[i]!];
    }
    return result;
  }

  /** The four words of state, to go on later exactly where this left off. */
  getState(): [number, number, number, number] {
    return [this.#a, this.#b, this.#c, this.#counter];
  }

  setState([a, b, c, counter]: readonly [number, number, number, number]): void {
    this.#a = a | 0;
    this.#b = b | 0;
    this.#c = c | 0;
    this.#counter = counter | 0;
  }
}
