/** What a long command tells, and to whom: words and bars on stderr, results on stdout, or with --json events there. */
import type { Command } from "commander";
import type { Progress, ProgressTask } from "../base/progress.js";
import { printEvent, type Event } from "./events.js";
import { terminalProgress } from "./progress.js";
import { printError, printOut } from "./terminal.js";
import { version } from "./version.js";

export interface OutputOptions {
  readonly quiet?: true;
  readonly json?: true;
}

/** Adds --quiet and --json. */
export const addOutputOptions = (command: Command): Command =>
  command
    .option("--quiet", "print errors only; results are in the files that are written, and in --json's events")
    .option("--json", "print events as lines of JSON on stdout, and words on stderr (docs/cli.md)");

/** A progress event is sent at most this often. */
const PROGRESS_MS = 1000;

/** The output of one command, see the top of this file. */
export class Output {
  readonly #command: string;
  readonly #quiet: boolean;
  readonly #json: boolean;
  readonly #start = performance.now();

  constructor(command: string, { quiet, json }: OutputOptions) {
    this.#command = command;
    this.#quiet = quiet ?? false;
    this.#json = json ?? false;
  }

  /** Seconds since the command began. */
  get seconds(): number {
    return (performance.now() - this.#start) / 1000;
  }

  /** Says that the work begins. @param details of what it works on */
  started(details: Readonly<Record<string, unknown>>): void {
    this.event({ type: "started", command: this.#command, version: version(), ...details });
  }

  /** Says that the work is done. @param details what was found */
  finished(files: readonly string[], details: Readonly<Record<string, unknown>> = {}): void {
    this.event({ type: "finished", seconds: this.seconds, files, ...details });
  }

  /** Sends an event to a program that follows. */
  event(event: Event): void {
    if (this.#json) printEvent(event);
  }

  /** Prints a result for people. */
  print(text: string): void {
    if (!this.#quiet) (this.#json ? printError : printOut)(text);
  }

  /** Prints words beside the result. */
  say(text: string): void {
    if (!this.#quiet) printError(text);
  }

  /** Whether somebody may look at bars and words. */
  get isShown(): boolean {
    return !this.#quiet;
  }

  /**
   * Progress as bars or lines, and as events.
   *
   * @param prefix called for each task: words before its name, such as those for the current stage
   * @param stage called for each task: the current stage, if it belongs to one
   */
  progress(prefix: () => string = () => "", stage: () => number | undefined = () => undefined): Progress {
    const shown = terminalProgress(prefix);
    return {
      task: (label, total, unit) => {
        const task = this.#quiet ? undefined : shown.task(label, total, unit);
        return this.#json ? this.#reported(task, { task: label, stage: stage() ?? null, total, unit }) : (task ?? IDLE);
      },
      log: (line) => this.say(`${line}\n`),
      warn: ({ kind, text, stages }) => {
        this.say(`warning: ${text}\n`);
        this.event({ type: "warning", kind, text, ...(stages !== undefined && { stages }) });
      },
    };
  }

  /** A task that also sends events. */
  #reported(
    shown: ProgressTask | undefined,
    work: Omit<Extract<Event, { type: "progress" }>, "type" | "done">,
  ): ProgressTask {
    let done = 0;
    let last = -Infinity;
    const send = (): void => {
      last = performance.now();
      this.event({ type: "progress", ...work, done });
    };
    send();
    return {
      advance: (amount, note) => {
        done += amount;
        shown?.advance(amount, note);
        if (done < work.total && performance.now() - last > PROGRESS_MS) send();
      },
      done: () => {
        shown?.done();
        send();
      },
    };
  }
}

const IDLE: ProgressTask = { advance: () => undefined, done: () => undefined };
