/** No JavaScript, however wrong, ends the process: each attempt of hostile.fixture.ts meets a TorchError. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { allowed, attempts } from "./hostile.fixture.js";

interface Outcome {
  name: string;
  outcome: string;
  message: string;
}

test("wrong use is a TorchError, and never a crash", async (t) => {
  const fixture = fileURLToPath(new URL("./hostile.fixture.js", import.meta.url));
  const child = spawnSync(process.execPath, [fixture, "run"], { encoding: "utf8", maxBuffer: 1 << 28 });
  const lines = child.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Outcome | { start: string });
  const last = lines.at(-1);
  assert.ok(last !== undefined && "outcome" in last, `the process ended in: ${JSON.stringify(last)}\n${child.stderr}`);
  assert.equal(child.status, 0, `the process ended with ${child.status ?? child.signal}\n${child.stderr}`);

  const outcomes = new Map(lines.filter((line) => "outcome" in line).map((line) => [line.name, line]));
  for (const name of Object.keys(attempts)) {
    await t.test(name, () => {
      const { outcome, message } = outcomes.get(name)!;
      assert.equal(outcome, "TorchError", message);
      assert.ok(message.length > 10, message);
    });
  }
  for (const name of Object.keys(allowed)) {
    await t.test(`${name} is allowed`, () => {
      const { outcome, message } = outcomes.get(name)!;
      assert.equal(outcome, "no error", message);
    });
  }
});
