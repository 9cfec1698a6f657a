/**
 * Reports of the setup, in the form of src/base/progress.ts, so that `b2 setup` can draw them as bars. The install script
 * runs before anything is compiled, and prints lines.
 *
 * @typedef {object} Progress
 * @property {(label: string, total: number, unit: string) => { advance(amount: number): void, done(): void }} task
 * @property {(line: string) => void} log
 */

const LINE_MS = 10_000;

/** @type {Progress} */
export const lines = {
  log: (line) => console.log(`[libtorch] ${line}`),
  task: (label, total, unit) => {
    let done = 0;
    let last = Date.now();
    return {
      advance: (amount) => {
        done += amount;
        if (Date.now() - last < LINE_MS) return;
        last = Date.now();
        console.log(`[libtorch] ${label}: ${Math.round(done)} of ${Math.round(total)} ${unit}`);
      },
      done: () => undefined,
    };
  },
};
