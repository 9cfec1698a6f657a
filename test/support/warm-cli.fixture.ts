/** Runs command lines one after another, as `b2` runs each; `warmB2` of cli.ts starts it. */
import { main } from "../../src/cli/main.js";
import type { Outcome } from "./cli.js";

/** One command line, and the variables of whoever gives it. */
export interface CommandLine {
  readonly args: readonly string[];
  readonly env: NodeJS.ProcessEnv;
}

const written = { stdout: "", stderr: "" };
for (const name of ["stdout", "stderr"] as const) {
  process[name].write = (text: Uint8Array | string, ...rest: unknown[]): boolean => {
    written[name] += typeof text === "string" ? text : Buffer.from(text).toString();
    const done = rest.at(-1);
    if (typeof done === "function") process.nextTick(done);
    return true;
  };
}

// What a command has left open, such as a module's timer, does not keep the process.
process.on("disconnect", () => process.exit());
process.on("message", (line: CommandLine) => void run(line).then((outcome) => process.send!(outcome)));

async function run({ args, env }: CommandLine): Promise<Outcome> {
  for (const name of Object.keys(process.env)) if (env[name] === undefined) delete process.env[name];
  Object.assign(process.env, env);
  Object.assign(written, { stdout: "", stderr: "" });
  process.exitCode = undefined;
  await main([process.execPath, "b2", ...args]);
  const code = Number(process.exitCode ?? 0);
  process.exitCode = undefined;
  for (const name of ["stdout", "stderr"] as const) process[name].removeAllListeners("error");
  return { code, ...written };
}
