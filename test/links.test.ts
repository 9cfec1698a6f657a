/** Links of the documentation lead somewhere, and the check that says so sees the ones that do not. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { repository, temporaryFolder } from "./support/folders.js";

function check(...args: string[]): { status: number | null; stdout: string; dead: string[] } {
  const script = join(repository, "scripts/check-links.mjs");
  const run = spawnSync(process.execPath, [script, ...args], { cwd: repository, encoding: "utf8" });
  return { status: run.status, stdout: run.stdout, dead: run.stderr.split("\n").filter((line) => line !== "") };
}

test("no link of the repository's pages is dead", () => {
  const { status, stdout, dead } = check();
  assert.deepEqual(dead, []);
  assert.equal(status, 0);
  assert.match(stdout, /^\d{2,} links of \d+ pages, 0 of them dead/);
});

test("a link to a file, a heading or an id that is not there is dead", () => {
  const folder = temporaryFolder();
  mkdirSync(join(folder, "deeper"));
  writeFileSync(
    join(folder, "deeper/page.html"),
    '<a id="here" href="../guide.md#the-run-folder">a</a><a href="gone.html">b</a>',
  );
  writeFileSync(
    join(folder, "guide.md"),
    [
      "# Guide",
      "## The `run` folder",
      "## Twice",
      "## Twice",
      "[good](deeper/page.html#here) [good](#twice-1) [good](#the-run-folder) [web](https://example.org/none#x)",
      "[bad](none.md) ![bad](none.png) [bad](#twice-2) [bad](deeper/page.html#there) [bad][ref]",
      "`[code](none-in-code.md)`",
      "",
      "```md",
      "# Not a heading",
      "[code](none-in-block.md)",
      "```",
      "",
      "[bad](#not-a-heading)",
      "",
      "[ref]: none-by-reference.md",
    ].join("\n"),
  );
  const { status, stdout, dead } = check(folder);
  assert.equal(status, 1);
  assert.match(stdout, /7 of them dead/);
  const expected = [
    "gone.html: there is no such file",
    "none.md: there is no such file",
    "none.png: there is no such file",
    "#twice-2: there is no #twice-2",
    "deeper/page.html#there: there is no #there",
    "#not-a-heading: there is no #not-a-heading",
    "none-by-reference.md: there is no such file",
  ];
  assert.deepEqual(
    dead.map((line) => line.replace(/^\S+ /, "")),
    expected,
  );
});
