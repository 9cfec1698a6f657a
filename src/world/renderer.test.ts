import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { scenesOf, TEMPLATES, type Scene } from "./grammar.js";
import { IMAGE_BYTES } from "./image-format.js";
import { Random } from "./random.js";
import { Renderer } from "./renderer.js";

const renderer = new Renderer();
const scenes = TEMPLATES.flatMap(scenesOf);

function meanDifference(a: Uint8Array, b: Uint8Array): number {
  return a.reduce((sum, value, i) => sum + Math.abs(value - b[i]!), 0) / a.length;
}

describe("Renderer", () => {
  it("draws the same image from the same seed, alone or in a batch", () => {
    const batch = renderer.drawBatch(scenes.slice(0, 20), new Random(3));
    const again = new Uint8Array(20 * IMAGE_BYTES);
    const random = new Random(3);
    scenes.slice(0, 20).forEach((scene, i) => renderer.draw(scene, random, again, i * IMAGE_BYTES));
    assert.deepEqual(batch, again);
  });

  it("draws another image from another seed", () => {
    const scene = scenes[0]!;
    assert.ok(
      meanDifference(renderer.drawBatch([scene], new Random(1)), renderer.drawBatch([scene], new Random(2))) > 1,
    );
  });

  it("draws every scene unlike every other, seed for seed", () => {
    const images = new Set(
      scenes.map((scene) => Buffer.from(renderer.drawBatch([scene], new Random(5))).toString("latin1")),
    );
    assert.equal(images.size, scenes.length);
  });

  it("puts the first object on the left or on top", () => {
    const redness = (scene: Scene, inside: (x: number, y: number) => boolean) => {
      const image = renderer.drawBatch([scene], new Random(8));
      let sum = 0;
      for (let y = 0; y < 64; y++) {
        for (let x = 0; x < 64; x++) {
          const i = (y * 64 + x) * 3;
          if (inside(x, y) && image[i]! > 180 && image[i + 1]! < 90) sum++;
        }
      }
      return sum;
    };
    const car = { template: "relation", first: "car", second: "book" } as const;
    const [horizontal, vertical] = [{ ...car, axis: "horizontal" } as const, { ...car, axis: "vertical" } as const];
    assert.ok(redness(horizontal, (x) => x < 32) > 10 * redness(horizontal, (x) => x >= 34) + 50);
    assert.ok(redness(vertical, (_, y) => y < 32) > 10 * redness(vertical, (_, y) => y >= 34) + 50);
  });

  it("tints fruit: a blue apple is blue, a red one red", () => {
    const centre = (colour: "red" | "blue") => {
      const image = renderer.drawBatch([{ template: "colour", colour, fruit: "apple" }], new Random(4));
      return [...image.subarray((40 * 64 + 32) * 3, (40 * 64 + 32) * 3 + 3)] as [number, number, number];
    };
    const [red, blue] = [centre("red"), centre("blue")];
    assert.ok(red[0] > red[2] + 80, red.join());
    assert.ok(blue[2] > blue[0] + 80, blue.join());
  });
});

describe("combined scenes", () => {
  const scene = {
    template: "combined",
    animal: "fox",
    activity: "riding a bike",
    colour: "blue",
    fruit: "apple",
  } as const;
  /** How many pixels of a corner, 20 wide and high, changed a lot. */
  const changed = (a: Uint8Array, b: Uint8Array, right: boolean): number => {
    let count = 0;
    for (let y = 0; y < 20; y++) {
      for (let x = right ? 44 : 0; x < (right ? 64 : 20); x++) {
        const i = (y * 64 + x) * 3;
        if ([0, 1, 2].some((c) => Math.abs(a[i + c]! - b[i + c]!) > 60)) count++;
      }
    }
    return count;
  };

  it("have the fruit in an upper corner, left as often as right, and nothing else depends on it", () => {
    const sides = { left: 0, right: 0 };
    for (let seed = 0; seed < 60; seed++) {
      const [blue, red] = (["blue", "red"] as const).map((colour) =>
        renderer.drawBatch([{ ...scene, colour }], new Random(seed)),
      );
      const [left, right] = [changed(blue!, red!, false), changed(blue!, red!, true)];
      assert.ok(Math.max(left, right) > 40 && Math.min(left, right) === 0, `seed ${seed}: ${left}, ${right}`);
      sides[left > right ? "left" : "right"]++;
    }
    assert.ok(Math.min(sides.left, sides.right) > 15, JSON.stringify(sides));
  });
});

describe("Random", () => {
  it("goes on exactly from a saved state", () => {
    const random = new Random(9);
    random.uniform();
    const state = random.getState();
    const next = [random.uint32(), random.uint32()];
    random.setState(state);
    assert.deepEqual([random.uint32(), random.uint32()], next);
  });

  it("is even over its range", () => {
    const random = new Random(1);
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 100_000; i++) counts[random.below(10)]!++;
    assert.ok(
      counts.every((count) => Math.abs(count - 10_000) < 400),
      counts.join(),
    );
  });

  it("refuses a seed that is no number", () => {
    assert.throws(() => new Random(NaN), /Expected a finite number for seed but received NaN/);
  });
});
