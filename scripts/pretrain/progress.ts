/**
 * Shows the progress of a long step: a bar on a terminal, otherwise a plain line now and then.
 */
import { SingleBar } from "cli-progress";

const SECONDS_BETWEEN_LINES = 15;

export interface Progress {
  /** @param done items finished, of the total; `note` is shown beside the rate and the time left. */
  update(done: number, note?: string): void;
  stop(): void;
}

/** @param start how many items were done before, by an earlier run that this one resumes */
export function startProgress(name: string, total: number, start = 0): Progress {
  const began = Date.now();
  const figures = (done: number) => {
    const seconds = (Date.now() - began) / 1000;
    const rate = seconds > 0 ? (done - start) / seconds : 0;
    return { rate: rate.toPrecision(3), left: rate > 0 ? duration((total - done) / rate) : "?" };
  };
  if (process.stdout.isTTY) {
    const format = `${name.padEnd(14)} {bar} {value}/{total} | {rate}/s | {left} left | {note}`;
    const bar = new SingleBar({ format, hideCursor: true, barsize: 24 });
    bar.start(total, start, { rate: "?", left: "?", note: "" });
    return {
      update: (done, note = "") => bar.update(done, { ...figures(done), note }),
      stop: () => bar.stop(),
    };
  }
  let next = began + 1000;
  return {
    update: (done, note = "") => {
      if (Date.now() < next && done < total) return;
      next = Date.now() + SECONDS_BETWEEN_LINES * 1000;
      const { rate, left } = figures(done);
      console.log(`${name} ${done}/${total} | ${rate}/s | ${left} left | ${note}`);
    },
    stop: () => undefined,
  };
}

function duration(seconds: number): string {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
}
