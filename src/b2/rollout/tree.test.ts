// Trees by hand: their levels, the advantages of their nodes, and which edges train.
import assert from "node:assert/strict";
import { test } from "node:test";
import { advantagesByLevel } from "./advantage.js";
import { selectRows } from "./select.js";
import { imagesOf, levelsOf } from "./tree.js";

const close = (actual: readonly number[], expected: readonly number[]): void => {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) < 1e-6, `${value} for ${expected[i]}`));
};

// Two splits: where all 5 steps of the interval are left, and where 3 are.
const branch = { count: 2, splits: [{ at: 3, count: 2 }] };
const levels = levelsOf(branch, 5);

test("every split begins a level of edges, which ends where the next one begins", () => {
  assert.deepEqual(levels, [
    { from: 0, to: 2, count: 2, edges: 2, images: 2 },
    { from: 2, to: 5, count: 2, edges: 4, images: 1 },
  ]);
  assert.equal(imagesOf(branch), 4);
  assert.deepEqual(levelsOf({ count: 5, splits: [] }, 14), [{ from: 0, to: 14, count: 5, edges: 5, images: 1 }]);
});

// Two roots of a prompt: nodes worth 2 and 6, then 0 and 2.
const current = { prompts: Array<string>(8).fill("a"), rewards: [1, 3, 5, 7, 0, 0, 2, 2] };

test("a node is worth the mean of its images, and is compared with the nodes of its level", () => {
  const [nodes, images] = advantagesByLevel(current, [], levels, { mode: "group-relative" });
  // Means 2.5 and 2.5, sample variances 19 / 3 and 42 / 7.
  const deviation = Math.sqrt(19 / 3);
  close(nodes!, [-0.5 / deviation, 3.5 / deviation, -2.5 / deviation, -0.5 / deviation]);
  close(
    images!,
    current.rewards.map((reward) => (reward - 2.5) / Math.sqrt(6)),
  );
});

test("of earlier stages the nodes of the same level count; siblings can be compared with each other alone", () => {
  const history = [{ prompts: Array<string>(4).fill("a"), rewards: [4, 6, 8, 10] }];
  // Nodes 2, 6, 0, 2 and, before, 5 and 9: mean 4, squares 4 + 4 + 16 + 4 + 1 + 25.
  const deviation = Math.sqrt(54 / 5);
  const of = (mode: "prompt-history" | "branch-centred"): number[] =>
    advantagesByLevel(current, history, levels, { mode })[0]!;
  close(of("prompt-history"), [-2 / deviation, 2 / deviation, -4 / deviation, -2 / deviation]);
  close(of("branch-centred"), [-2 / deviation, 2 / deviation, -1 / deviation, 1 / deviation]);
});

test("the best and the worst child of every node train, each edge once, up to the last trained step", () => {
  const advantages = [
    [1, -1, 0.2, 0.1],
    [0.9, 0.8, -2, 0.1, 0, 0, 3, 4],
  ];
  const options = { positiveThreshold: 0.5, negativeThreshold: -0.5, steps: 4 };
  const rows = selectRows(advantages, levels, { ...options, mode: "best-worst", ofImages: false });
  assert.deepEqual(rows, [
    { sample: 0, advantage: 1, edge: { from: 0, to: 2, parent: 0 } },
    { sample: 2, advantage: -1, edge: { from: 0, to: 2, parent: 0 } },
    { sample: 0, advantage: 0.9, edge: { from: 2, to: 4, parent: 0 } },
    { sample: 2, advantage: -2, edge: { from: 2, to: 4, parent: 1 } },
    { sample: 7, advantage: 4, edge: { from: 2, to: 4, parent: 3 } },
  ]);
  const all = selectRows(advantages, levels, { ...options, mode: "all", ofImages: false });
  assert.equal(all.length, 12);
});

test("final latents train for every image below an edge", () => {
  const options = { positiveThreshold: 0.5, negativeThreshold: -0.5, steps: 5 };
  const rows = selectRows([[0, 0, 0, 1], Array<number>(8).fill(0)], levels, {
    ...options,
    mode: "best-worst",
    ofImages: true,
  });
  const edge = { from: 0, to: 2, parent: 1 };
  assert.deepEqual(
    rows,
    [6, 7].map((sample) => ({ sample, advantage: 1, edge })),
  );
});
