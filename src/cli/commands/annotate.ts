/** `b2 annotate`: a local page on which a person judges the images of a run, for the reward `people`. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { platform } from "node:os";
import type { Command } from "commander";
import type { BoardState } from "../../annotate/page-state.js";
import { InputError } from "../../base/errors.js";
import { makeFolder, writeFailure } from "../../base/files.js";
import { holderOfLock, tryLock, type Lock } from "../../base/lock.js";
import { layout } from "../../runs/layout.js";
import { RunReader } from "../../runs/reader.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { wholeNumber } from "../options.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";

interface AnnotateOptions extends OutputOptions {
  readonly port: number;
  readonly open?: true;
  readonly once?: true;
}

export function addAnnotateCommand(program: Command): void {
  addOutputOptions(program.command("annotate <run>"))
    .description(
      "Show the images that a run with the reward people asks about on a local page, and save what is chosen.",
    )
    .option("--port <number>", "port of the page on 127.0.0.1; 0 for any that is free", wholeNumber(0, 65_535), 0)
    .option("--open", "open the page in the browser")
    .option("--once", "end when all is judged; without it, the page waits for more until Ctrl-C")
    .addHelpText("after", example("b2 annotate runs/mine --open", "b2 annotate runs/mine --port 8080 --once"))
    .action(async (run: string, options: AnnotateOptions) => {
      if (options.quiet === true && options.open !== true && options.json !== true) {
        throw new InputError(
          "Expected --open or --json with --quiet, which does not print the address, but received neither",
        );
      }
      const folder = layout.annotations(run);
      // The reward's option `folder` makes one without a run.
      if (!RunReader.exists(run) && !existsSync(folder)) {
        throw new InputError(`Expected a run folder (with run.json) but received ${run}`);
      }
      await interruptible("All that is chosen is saved.", (signal) => annotate(run, options, signal));
    });
}

/** Serves the page until the signal aborts, or with `once` until all is judged. */
async function annotate(run: string, options: AnnotateOptions, signal: AbortSignal): Promise<void> {
  const output = new Output("annotate", options);
  const { Annotations, Board, serve } = await import("../../annotate/index.js");
  const annotations = new Annotations(layout.annotations(run));
  makeFolder(annotations.folder);
  const lock = lockOf(run, annotations.lock);
  const done = new AbortController();
  const changed = (state: BoardState): void => {
    const { judged, total } = state;
    output.event({ type: "progress", task: "judging", stage: null, done: judged, total, unit: "groups" });
    if (options.once === true && state.current === null) done.abort();
  };
  try {
    const board = new Board(annotations);
    const before = board.state();
    const isRunning = (): boolean => holderOfLock(layout.lock(run)) !== undefined;
    const server = await serve(annotations, { run, port: options.port, isRunning, onChange: changed });
    try {
      const { address } = server;
      output.started({ folder: run, address });
      output.print(`${before.judged} of ${before.total} groups are judged.\n${address}\n`);
      output.say("Open this address in a browser. Ctrl-C ends it; all that is chosen is saved at once.\n");
      if (options.open === true) await openBrowser(address, (text) => output.say(text));
      changed(before);
      const end = AbortSignal.any([signal, done.signal]);
      if (!end.aborted) await once(end, "abort");
    } finally {
      await server.close();
    }
    const { judged, total } = board.state();
    output.print(`${judged} of ${total} groups are judged.\n`);
    output.finished([annotations.judgements.file], { judged, total });
  } finally {
    lock.release();
  }
}

/** @throws InputError when another process serves the same folder, or the folder cannot be written to */
function lockOf(run: string, file: string): Lock {
  let taken: ReturnType<typeof tryLock>;
  try {
    taken = tryLock(file);
  } catch (cause) {
    throw writeFailure(file, cause);
  }
  if ("release" in taken) return taken;
  throw new InputError(
    `Expected a run that no other b2 annotate serves but received ${run}, which process ${taken.pid} of the host ` +
      `${taken.host} serves; use its page, or stop it`,
  );
}

/** Opens an address in the browser of this machine, where there is one. */
async function openBrowser(address: string, say: (text: string) => void): Promise<void> {
  const program = platform() === "darwin" ? "open" : "xdg-open";
  const child = spawn(program, [address], { stdio: "ignore", detached: true });
  child.unref();
  await once(child, "spawn").catch(() => say(`No browser could be opened: there is no ${program} here.\n`));
}
