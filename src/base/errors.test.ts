/** What an InputError quotes cannot move the cursor. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { InputError } from "./errors.js";
import { showProblems } from "./show.js";

test("control characters in the message of an InputError are escaped, line breaks aside", () => {
  const cause = new Error("why");
  const error = new InputError("file\u001b[2J: Expected\n\t\u009b \u202e\u0000\u2028", { cause });
  assert.equal(error.message, "file\\u001b[2J: Expected\n\t\\u009b \\u202e\\u0000\\u2028");
  assert.equal(error.cause, cause);
  class Other extends InputError {
    override readonly name = "Other";
  }
  assert.equal(String(new Other("\u0007")), "Other: \\u0007");
});

test("of thousands of problems the first hundred are shown", () => {
  const problems = Array.from({ length: 5000 }, (_, i) => `problem ${i}`);
  const lines = showProblems(problems).split("\n  ");
  assert.deepEqual([lines.length, lines[99], lines[100]], [101, "problem 99", "and 4900 more"]);
  assert.equal(showProblems(["one", "two"], "; "), "one; two");
});
