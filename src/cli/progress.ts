/**
 * Progress on stderr: a bar with rate and time left on a terminal, plain lines every ten seconds elsewhere. Work that
 * takes less than a second shows nothing.
 */
import cliProgress from "cli-progress";
import type { Progress, ProgressTask } from "../base/progress.js";
import { visible } from "../base/show.js";
import { printError } from "./terminal.js";

const QUIET_MS = 1000;
const LINE_MS = 10_000;

/** Progress for a terminal, or for a log. `prefix` is called for each task, such as for the current stage. */
export function terminalProgress(prefix: () => string = () => ""): Progress {
  const out = process.stderr;
  return {
    task: (label, total, unit) => {
      const name = visible([prefix(), label].filter((part) => part !== "").join(" "));
      return out.isTTY ? barTask(name, total, unit) : lineTask(name, total, unit);
    },
    log: (line) => printError(`${line}\n`),
  };
}

/** A number with three significant digits and no exponent. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return "-";
  return Math.abs(value) >= 100 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();
}

/** Seconds as 12s, 3m05s or 2h07m. */
export function duration(seconds: number): string {
  if (!Number.isFinite(seconds)) return "-";
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole}s`;
  const [big, small] =
    whole < 3600 ? [Math.floor(whole / 60), whole % 60] : [Math.floor(whole / 3600), Math.floor((whole % 3600) / 60)];
  return whole < 3600 ? `${big}m${String(small).padStart(2, "0")}s` : `${big}h${String(small).padStart(2, "0")}m`;
}

/** The text beside a bar or in a line: rate so far and time left. */
class Meter {
  readonly #start = performance.now();
  done = 0;

  constructor(
    readonly total: number,
    readonly unit: string,
  ) {}

  get elapsed(): number {
    return performance.now() - this.#start;
  }

  toString(): string {
    const rate = this.done / (this.elapsed / 1000);
    return `${this.done}/${this.total} ${this.unit}, ${short(rate)}/s, ${duration((this.total - this.done) / rate)} left`;
  }
}

interface BarValues {
  readonly name: string;
  readonly meter: string;
  readonly note: string;
}

const MOST_CELLS = 24;

/**
 * Name, bar, rate with the time left, and note, in less than `width` cells. What there is no room for goes in this order:
 * the note, cells of the bar, the end of the name.
 */
export function barLine({
  name,
  meter,
  note,
  progress,
  width,
}: BarValues & { readonly progress: number; readonly width: number }): string {
  const room = width - 1;
  const beside = room - meter.length - 1;
  const cells = Math.min(MOST_CELLS, beside - name.length - 1);
  if (cells < 4) return `${name.slice(0, Math.max(0, beside))} ${meter}`.slice(0, room);
  const full = Math.round(progress * cells);
  const line = `${name} ${"█".repeat(full)}${"░".repeat(cells - full)} ${meter}`;
  const whole = `${line} ${note}`.trimEnd();
  return whole.length <= room ? whole : line;
}

function barTask(name: string, total: number, unit: string): ProgressTask {
  const meter = new Meter(total, unit);
  const bar = new cliProgress.SingleBar({
    format: (_, { progress }, { name, meter, note }: BarValues) =>
      barLine({ name, meter, note, progress, width: process.stderr.columns || 80 }),
    hideCursor: true,
    clearOnComplete: true,
    linewrap: true, // a line is never longer than the terminal is wide, and what is printed beside it may be
    gracefulExit: false,
  });
  let shown = false;
  return {
    advance: (amount, note = "") => {
      meter.done += amount;
      const values: BarValues = { name, meter: String(meter), note: visible(note) };
      if (shown) bar.update(meter.done, values);
      else if (meter.elapsed > QUIET_MS) {
        bar.start(total, meter.done, values);
        shown = true;
      }
    },
    done: () => {
      if (shown) bar.stop();
      shown = false;
    },
  };
}

function lineTask(name: string, total: number, unit: string): ProgressTask {
  const meter = new Meter(total, unit);
  let last = 0;
  return {
    advance: (amount, note = "") => {
      meter.done += amount;
      const due = last === 0 ? meter.elapsed > QUIET_MS : meter.elapsed - last > LINE_MS;
      if (due && meter.done < total) {
        last = meter.elapsed;
        printError(`${`${name}: ${String(meter)} ${note}`.trimEnd()}\n`);
      }
    },
    done: () => undefined,
  };
}
