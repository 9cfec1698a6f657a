import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { holderOfLock, lock, tryLock, type Lock } from "./lock.js";

const folder = mkdtempSync(join(tmpdir(), "b2-lock-"));
after(() => rmSync(folder, { recursive: true }));

const program = (...args: string[]): ChildProcess =>
  spawn(process.execPath, [join(import.meta.dirname, "lock.fixture.js"), ...args], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...(args.length === 1 && { BLOCKED: "1" }) },
  });

const taken = (file: string): Lock => {
  const held = tryLock(file);
  assert.ok("release" in held, JSON.stringify(held));
  return held;
};

/** Makes a file look as if it had not been touched for longer than a lock lives. */
const age = (file: string): void => {
  const before = new Date(Date.now() - 11_000);
  utimesSync(file, before, before);
};

test("a second one is told who holds it, until it is released", async () => {
  const file = join(folder, "plain.lock");
  const held = taken(file);
  assert.deepEqual(tryLock(file), { pid: process.pid, host: hostname() });
  assert.deepEqual(holderOfLock(file), { pid: process.pid, host: hostname() });
  let waited = false;
  const next = lock(file).then((next) => {
    assert.ok(waited);
    next.release();
  });
  await sleep(150);
  waited = true;
  held.release();
  await next;
  assert.equal(holderOfLock(file), undefined);
  assert.ok(!existsSync(file));
});

test("it holds while its process is blocked, and not when the process is dead", async () => {
  const file = join(folder, "blocked.lock");
  const child = program(file);
  await once(child.stdout!, "data");
  age(file);
  const touched = statSync(file).mtimeMs;
  for (let i = 0; i < 100 && statSync(file).mtimeMs === touched; i++) await sleep(100);
  assert.deepEqual(tryLock(file), { pid: child.pid, host: hostname() });
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.ok(existsSync(file));
  taken(file).release();
});

test("a lock of another host, or of another process with this one's id, holds for as long as it is touched", () => {
  const file = join(folder, "far.lock");
  writeFileSync(file, "1 elsewhere pid:[1] token");
  assert.deepEqual(tryLock(file), { pid: 1, host: "elsewhere" });
  age(file);
  taken(file).release();
  // A container of the same name.
  writeFileSync(file, `${process.pid} ${hostname()} pid:[1] token`);
  assert.deepEqual(tryLock(file), { pid: process.pid, host: hostname() });
  age(file);
  taken(file).release();
});

test("who has lost it knows, and does not remove the lock of who has taken it over", () => {
  const file = join(folder, "lost.lock");
  const slow = taken(file);
  age(file);
  const fast = taken(file);
  assert.ok(fast.isHeld() && !slow.isHeld());
  slow.release();
  assert.ok(fast.isHeld());
  fast.release();
});

test("of many processes that find an abandoned lock, one at a time holds it", async () => {
  const file = join(folder, "race.lock");
  const counter = join(folder, "counter");
  writeFileSync(file, `1 elsewhere pid:[1] token`);
  age(file);
  const children = Array.from({ length: 4 }, () => program(file, counter, "10"));
  for (const code of await Promise.all(children.map(async (child) => ((await once(child, "exit")) as [number])[0])))
    assert.equal(code, 0);
  assert.equal(readFileSync(counter, "utf8"), "40");
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.startsWith("race")),
    [],
  );
});

test("a lock whose folder is gone is released without a word", () => {
  const gone = join(folder, "gone");
  mkdirSync(gone);
  const held = taken(join(gone, "a.lock"));
  rmSync(gone, { recursive: true });
  held.release();
  assert.ok(!held.isHeld());
});

test("what a process left that died while it removed a lock does not last", () => {
  const file = join(folder, "removing.lock");
  for (const left of [file, `${file}.removing`]) {
    writeFileSync(left, "1 elsewhere pid:[1] token");
    age(left);
  }
  taken(file).release();
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.startsWith("removing")),
    [],
  );
});
