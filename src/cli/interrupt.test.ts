import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";

const fixture = fileURLToPath(new URL("interrupt.fixture.js", import.meta.url));

/** A process with what it has printed. */
class Begun {
  readonly child: ChildProcess;
  text = "";

  constructor(...args: string[]) {
    this.child = spawn(process.execPath, [fixture, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.on("data", (data: Buffer) => (this.text += data.toString()));
    }
  }

  async until(words: string): Promise<void> {
    while (!this.text.includes(words)) await sleep(10);
  }

  async ended(): Promise<readonly unknown[]> {
    const [code, signal] = (await once(this.child, "close")) as unknown[];
    return [code, signal];
  }
}

describe("interruptible", { concurrency: true }, () => {
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    it(`lets work stop by itself at the first ${signal}, and says what is kept`, async () => {
      const work = new Begun("heed");
      await work.until("begun");
      work.child.kill(signal);
      assert.deepEqual(await work.ended(), [0, null]);
      assert.match(work.text, /Stopping after this step; .* at once\. What is there stays\.\n/);
      assert.match(work.text, /^stopped$/m);
    });

    it(`ends the process at once at the second ${signal}`, async () => {
      const work = new Begun();
      await work.until("begun");
      work.child.kill(signal);
      await work.until("What is there stays");
      // One hangup may bring two signals.
      if (signal === "SIGHUP") await sleep(1100);
      work.child.kill(signal);
      assert.deepEqual(await work.ended(), [130, null]);
      assert.doesNotMatch(work.text, /stopped|done/);
    });
  }

  it("takes two SIGHUPs of one closed terminal for one, and any other signal after it for the second", async () => {
    const work = new Begun();
    await work.until("begun");
    work.child.kill("SIGHUP");
    await work.until("What is there stays");
    work.child.kill("SIGHUP");
    await sleep(300);
    assert.equal(work.child.exitCode, null);
    work.child.kill("SIGTERM");
    assert.deepEqual(await work.ended(), [130, null]);
  });
});
