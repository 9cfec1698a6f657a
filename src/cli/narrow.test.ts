import assert from "node:assert/strict";
import { test } from "node:test";
import { barLine } from "./progress.js";
import { columns } from "./table.js";

test("a bar's line fits every terminal, and keeps the time that is left", () => {
  const meter = "1234/5678 steps, 12.3/s, 2h07m left";
  const parts = { name: "stage 10 (11/100) sampling", meter, note: "loss -0.1234", progress: 0.5 };
  for (const width of [40, 60, 80, 100, 200]) {
    const line = barLine({ ...parts, width });
    assert.ok(line.length < width, `${width}: ${line.length}`);
    assert.ok(line.includes(meter), line);
  }
  assert.match(
    barLine({ ...parts, width: 200 }),
    /^stage 10 \(11\/100\) sampling █{12}░{12} 1234.*left loss -0\.1234$/,
  );
  assert.ok(barLine({ ...parts, width: 10 }).length < 10);
});

test("a table that is wider than the terminal is written in blocks", () => {
  const lines = [
    ["prompts", "measure", "before"],
    ["training", "reward", "0.4058 [0.3651, 0.4482]"],
    ["held-out", "reward", ""],
  ];
  assert.equal(columns(lines, 60).split("\n").length, 4);
  assert.equal(
    columns(lines, 30),
    "prompts  training\nmeasure  reward\nbefore   0.4058 [0.3651, 0.4482]\n\nprompts  held-out\nmeasure  reward",
  );
});
