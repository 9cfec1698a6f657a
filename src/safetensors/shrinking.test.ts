/** Files that change between being opened and being read: an error, or the tensor as it was, and never the end of the process. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { appendFileSync, renameSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { temporaryFolder } from "../../test/support/folders.js";
import { ones, zeros } from "../torch/index.js";
import { SafetensorsFile, saveSafetensors } from "./index.js";

const folder = temporaryFolder();
const MEGABYTES = 2 ** 22;

/** A file of two tensors of 16 MiB, which take more than one read with the header before them. */
function largeFile(name: string): string {
  const file = join(folder, name);
  saveSafetensors(file, { a: ones([MEGABYTES + 1]), b: ones([MEGABYTES]) });
  return file;
}

test("a file that is cut off under the process", () => {
  const file = largeFile("cut.safetensors");
  const fixture = fileURLToPath(new URL("shrinking.fixture.js", import.meta.url));
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, [fixture, file], { encoding: "utf8" });
  assert.equal(signal, null, stderr);
  assert.equal(status, 0, stderr);
  const { sum, message } = JSON.parse(stdout) as { sum: number; message: string };
  assert.equal(sum, MEGABYTES + 1);
  assert.match(message, /cut\.safetensors: Expected the file that was opened but received one of 100 bytes instead of/);
});

describe("a file that was opened and then", () => {
  const changes: Record<string, readonly [change: (file: string) => void, message: RegExp]> = {
    "grew is refused": [
      (file) => appendFileSync(file, "more"),
      /the file that was opened but received one of \d+ bytes/,
    ],
    "was written to is refused": [
      (file) => utimesSync(file, 1, 1),
      /opened but received one that was written to since/,
    ],
    "was deleted is refused": [(file) => rmSync(file), /opened but received ENOENT/],
    "was replaced is refused": [
      (file) => {
        saveSafetensors(`${file}.other`, { a: zeros([MEGABYTES + 1]), b: zeros([MEGABYTES]) });
        renameSync(`${file}.other`, file);
      },
      /opened but received one that was written to since/,
    ],
    "became a pipe is refused": [
      (file) => {
        rmSync(file);
        assert.equal(spawnSync("mkfifo", [file]).status, 0);
      },
      /Expected a file but received a pipe/,
    ],
    "lost its data is refused": [(file) => writeFileSync(file, ""), /opened but received one of 0 bytes/],
  };
  for (const [name, [change, message]] of Object.entries(changes)) {
    test(name, () => {
      const source = new SafetensorsFile(largeFile("changed.safetensors"));
      change(source.file);
      assert.throws(() => source.tensor("b"), { name: "SafetensorsError", message });
      rmSync(source.file, { force: true });
    });
  }
});
