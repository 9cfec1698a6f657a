/** Lets only so many tasks run at the same time; the others wait in the order in which they came. */
export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  /** @param count tasks at the same time */
  constructor(count: number) {
    this.#free = count;
  }

  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else await new Promise<void>((done) => this.#waiting.push(done));
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      // A slot is handed on rather than freed, so that no newcomer is faster than who waits.
      if (next === undefined) this.#free++;
      else next();
    }
  }
}
