/** Takes a lock and says so; with `count`, takes and releases it so often while it counts a file up. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { lock } from "./lock.js";

const [file, counter, count] = process.argv.slice(2) as [string, string?, string?];

if (counter === undefined) {
  await lock(file);
  process.stdout.write("held\n");
  // As libtorch does: nothing else runs meanwhile.
  if (process.env["BLOCKED"] !== undefined) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  setInterval(() => undefined, 1000);
} else {
  for (let i = 0; i < Number(count); i++) {
    const held = await lock(file, undefined, { fresh: 60_000, silence: 300 });
    const before = existsSync(counter) ? Number(readFileSync(counter, "utf8")) : 0;
    await sleep(1);
    writeFileSync(counter, String(before + 1));
    if (!held.isHeld()) throw new Error("Expected the lock to be held");
    held.release();
  }
}
