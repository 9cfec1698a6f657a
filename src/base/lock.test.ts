import assert from "node:assert/strict";
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
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
import { holderOfLock, lock, tryLock, type Holder, type Lock } from "./lock.js";

const folder = mkdtempSync(join(tmpdir(), "b2-lock-"));
after(() => rmSync(folder, { recursive: true }));

const fixture = join(import.meta.dirname, "lock.fixture.js");

/** Touches a file for ever, by a clock that is wrong by so many milliseconds. */
const toucher = `
  const { utimesSync } = require("node:fs");
  const [file, jump] = process.argv.slice(1);
  const touch = () => { const now = new Date(Date.now() + Number(jump)); utimesSync(file, now, now); };
  setInterval(touch, 50);
  setTimeout(() => console.log("touching"), 60);
`;

const program = (...args: string[]): ChildProcess =>
  spawn(process.execPath, [fixture, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, ...(args.length === 1 && { BLOCKED: "1" }) },
  });

const taken = (file: string): Lock => {
  const held = tryLock(file, soon);
  assert.ok("release" in held, JSON.stringify(held));
  return held;
};

/** Makes a file look as if it had been touched at another time than now. */
const shift = (file: string, milliseconds: number): void => {
  const then = new Date(Date.now() + milliseconds);
  utimesSync(file, then, then);
};
const HOUR = 3_600_000;

/** How the locks of processes elsewhere are judged here, without waiting for ten seconds. */
const soon = { fresh: 60_000, silence: 300 };

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

test("it holds while its process is blocked or stopped, whatever the clock says, and not when the process is dead", async () => {
  const file = join(folder, "blocked.lock");
  const child = program(file);
  await once(child.stdout!, "data");
  shift(file, -HOUR);
  const touched = statSync(file).mtimeMs;
  assert.deepEqual(tryLock(file, soon), { pid: child.pid, host: hostname() });
  for (let i = 0; i < 100 && statSync(file).mtimeMs === touched; i++) await sleep(100);
  assert.notEqual(statSync(file).mtimeMs, touched, "its thread touches it");
  child.kill("SIGSTOP");
  for (const jump of [-HOUR, HOUR]) {
    shift(file, jump);
    assert.deepEqual(tryLock(file, soon), { pid: child.pid, host: hostname() });
  }
  child.kill("SIGKILL");
  await once(child, "exit");
  assert.ok(existsSync(file));
  taken(file).release();
});

test("a dead process holds it neither as a zombie nor when another process has its id", async () => {
  const file = join(folder, "zombie.lock");
  // A parent that does not wait for its child.
  const parent = spawn("sh", ["-c", '"$@" & exec sleep 60', "sh", process.execPath, fixture, file], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(parent.stdout, "data");
  const { pid } = tryLock(file) as Holder;
  process.kill(pid, "SIGKILL");
  while (!/\) Z /.test(readFileSync(`/proc/${pid}/stat`, "utf8"))) await sleep(20);
  taken(file).release();
  parent.kill("SIGKILL");

  const held = taken(file);
  const text = readFileSync(file, "utf8");
  held.release();
  // This test's parent, which started at another time than the text says.
  writeFileSync(file, text.replace(/^\d+/, String(process.ppid)));
  taken(file).release();
});

test("a lock of another host, or of another process with this one's id, holds for as long as it is touched", () => {
  const file = join(folder, "far.lock");
  writeFileSync(file, "1 elsewhere pid:[1] token");
  assert.deepEqual(tryLock(file, soon), { pid: 1, host: "elsewhere" });
  shift(file, -61_000);
  taken(file).release();
  // Of a host whose clock was far ahead.
  writeFileSync(file, "1 elsewhere pid:[1] token");
  shift(file, HOUR);
  taken(file).release();
  // A container of the same name.
  writeFileSync(file, `${process.pid} ${hostname()} pid:[1] token`);
  assert.deepEqual(tryLock(file, soon), { pid: process.pid, host: hostname() });
  shift(file, -61_000);
  taken(file).release();
});

test("a living process elsewhere keeps it when clocks differ or jump", async () => {
  for (const jump of [-HOUR, HOUR]) {
    const file = join(folder, `jump${jump}.lock`);
    writeFileSync(file, "1 elsewhere pid:[1] token");
    shift(file, jump);
    const child = spawn(process.execPath, ["-e", toucher, file, String(jump)], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    await once(child.stdout, "data");
    assert.deepEqual(tryLock(file, soon), { pid: 1, host: "elsewhere" });
    assert.deepEqual(tryLock(file, soon), { pid: 1, host: "elsewhere" });
    child.kill("SIGKILL");
    await once(child, "exit");
    taken(file).release();
  }
});

const canUnshare = spawnSync("unshare", ["--pid", "--fork", "--mount-proc", "true"]).status === 0;
test("a process of another space of ids holds it by touching it", { skip: !canUnshare }, async () => {
  const file = join(folder, "space.lock");
  const child = spawn("unshare", ["--pid", "--fork", "--kill-child", "--mount-proc", process.execPath, fixture, file], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  await once(child.stdout, "data");
  const { pid } = tryLock(file) as Holder;
  assert.equal(pid, 1, "its id there");
  // One beat makes up for any jump.
  shift(file, -HOUR);
  assert.deepEqual(tryLock(file, { fresh: 60_000, silence: 5000 }), { pid: 1, host: hostname() });
  child.kill("SIGKILL");
  await once(child, "exit");
  shift(file, -61_000);
  taken(file).release();
});

test("who has lost it knows, and does not remove the lock of who has taken it over", () => {
  const file = join(folder, "lost.lock");
  const slow = taken(file);
  // As whoever could not know this process would do.
  rmSync(file);
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
  shift(file, -61_000);
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
    shift(left, -61_000);
  }
  taken(file).release();
  assert.deepEqual(
    readdirSync(folder).filter((name) => name.startsWith("removing")),
    [],
  );
});
