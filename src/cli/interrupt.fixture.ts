/** Work that goes on for a minute whatever its signal says, unless an argument asks it to heed the signal. */
import { setTimeout as sleep } from "node:timers/promises";
import { interruptible } from "./interrupt.js";

await interruptible("What is there stays.", async (signal) => {
  process.stdout.write("begun\n");
  await sleep(60_000, undefined, process.argv[2] === "heed" ? { signal } : {}).catch(() => undefined);
  process.stdout.write(signal.aborted ? "stopped\n" : "done\n");
});
