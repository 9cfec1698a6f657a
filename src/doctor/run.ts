/** Runs other programs, which may be missing, hang, crash or print anything. */
import { spawn } from "node:child_process";

/** What a program printed, or in words why it did not end well. */
export type Ran = { readonly output: string } | { readonly failure: string; readonly missing: boolean };

/** nvidia-smi takes ten and more where it has to wake eight GPUs. */
const PATIENCE_SECONDS = 20;
/** More than this from a program that is asked for a few lines is not an answer. */
const MOST_CHARACTERS = 100_000;

/** Runs a program to its end, or kills it when its time is over. Never rejects. */
export function run(command: string, args: readonly string[], patience = PATIENCE_SECONDS): Promise<Ran> {
  return new Promise((resolve) => {
    const child = spawn(command, [...args], { stdio: ["ignore", "pipe", "pipe"] });
    let [output, errors] = ["", ""];
    const end = (ran: Ran): void => {
      clearTimeout(timer);
      resolve(ran);
    };
    const giveUp = (reason: string): void => {
      child.kill("SIGKILL");
      // What it has started may hold the pipes open, and a process in a driver cannot be killed: neither is waited for.
      child.stdout.destroy();
      child.stderr.destroy();
      child.unref();
      end({ failure: reason, missing: false });
    };
    const timer = setTimeout(() => giveUp(`no answer for ${patience} seconds`), 1000 * patience);
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      if (output.length > MOST_CHARACTERS) giveUp("it printed without end");
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => (errors = (errors + text).slice(-MOST_CHARACTERS)));
    child.on("error", ({ message, ...error }: NodeJS.ErrnoException) =>
      end({ failure: error.code === "ENOENT" ? "not found" : message, missing: error.code === "ENOENT" }),
    );
    child.on("close", (code, signal) => {
      const last = errors.trim().split("\n").at(-1)!.slice(0, 200);
      const ended = signal === null ? `exit code ${code}` : `ended by ${signal}`;
      if (code === 0) end({ output });
      else end({ failure: last === "" ? ended : `${ended}: ${last}`, missing: false });
    });
  });
}

/** The first line that a program prints, as `c++ --version`. */
export async function firstLine(command: string, args: readonly string[]): Promise<Ran> {
  const ran = await run(command, args);
  return "output" in ran ? { output: ran.output.trim().split("\n", 1)[0]!.slice(0, 200) } : ran;
}
