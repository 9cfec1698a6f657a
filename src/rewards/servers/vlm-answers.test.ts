/** Numbers in answers that are not finite are none. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { numberIn } from "./vlm-answers.js";

test("a number that is too large for one is no number", () => {
  const many = "9".repeat(400);
  for (const text of [many, `Score: ${many}`, `{"score": ${many}}`]) {
    assert.equal(numberIn(text), undefined, text.slice(0, 20));
  }
  assert.equal(numberIn("Score: 4/5"), 4);
});

test("numbers with an exponent are read whole", () => {
  for (const text of ["1e-3", "Score: 1e-3", "1.0E-3 at most", '{"score": 1e-3}'])
    assert.equal(numberIn(text), 0.001, text);
});
