/**
 * Draws scenes as 64 x 64 images: sprites on a pale ground of random hue, each moved and scaled a little.
 * An image depends on its scene and its random numbers alone; a thousand take well under a second.
 */
import type { Activity, ActivityScene, Scene } from "./grammar.js";
import { IMAGE_BYTES, IMAGE_SIZE } from "./image-format.js";
import type { Random } from "./random.js";
import { ANIMAL_ICONS, OBJECT_ICONS, SpriteSheet, type Sprite } from "./sprites.js";

/** Every sprite is drawn at one of these sizes relative to its usual one, and moved by up to so many pixels. */
const SCALES = [0.94, 1, 1.06];
const SHIFT = 2;

/** A drawing and where its centre goes, in pixels, before jitter. */
interface Placement {
  icon: string;
  size: number;
  x: number;
  y: number;
}

/** What stands in front of the animal, back to front. */
const PROPS: Record<Activity, readonly Placement[]> = {
  "riding a bike": [{ icon: "bicycle", size: 54, x: 32, y: 46 }],
  "playing chess": [
    { icon: "chess-board", size: 58, x: 32, y: 51 },
    { icon: "chess-pawn", size: 27, x: 49, y: 38 },
  ],
  "washing dishes": [
    { icon: "plate", size: 29, x: 46, y: 46 },
    { icon: "sponge", size: 26, x: 17, y: 52 },
    { icon: "bubbles", size: 22, x: 52, y: 15 },
  ],
};

/** Where the animal's head goes for each activity. */
const HEADS: Record<Activity, Omit<Placement, "icon">> = {
  "riding a bike": { size: 34, x: 31, y: 20 },
  "playing chess": { size: 36, x: 26, y: 22 },
  "washing dishes": { size: 38, x: 26, y: 23 },
};

/** The fruit of a combined scene: its usual size and the centre of its corner, upper left before the picture is mirrored. */
const SMALL_FRUIT = { size: 16, x: 10, y: 10 };
/** How far the rest of a combined scene makes room for the fruit. */
const ROOM = { x: 3, y: 2 };

export class Renderer {
  readonly #sheet = new SpriteSheet();

  /** Draws one scene into `out`, 12,288 bytes from `offset`, rows of RGB. */
  draw(scene: Scene, random: Random, out: Uint8Array, offset = 0): void {
    fillGround(out, offset, random);
    switch (scene.template) {
      case "activity":
        this.#activity(scene, { x: jitter(random), y: jitter(random) }, random, out, offset);
        return;
      case "colour": {
        const sprite = this.#sheet.tintedFruit(scene.fruit, scene.colour, scaled(50, random));
        composite(out, offset, sprite, 32 + jitter(random), 32 + jitter(random));
        return;
      }
      case "relation": {
        const away = scene.axis === "horizontal" ? { x: 15, y: 0 } : { x: 0, y: 15 };
        for (const [object, side] of [
          [scene.second, 1],
          [scene.first, -1],
        ] as const) {
          const sprite = this.#sheet.icon(OBJECT_ICONS[object], scaled(29, random));
          composite(out, offset, sprite, 32 + side * away.x + jitter(random), 32 + side * away.y + jitter(random));
        }
        return;
      }
      case "combined": {
        this.#activity(scene, { x: ROOM.x + jitter(random), y: ROOM.y + jitter(random) }, random, out, offset);
        const fruit = this.#sheet.tintedFruit(scene.fruit, scene.colour, scaled(SMALL_FRUIT.size, random));
        composite(out, offset, fruit, SMALL_FRUIT.x + jitter(random), SMALL_FRUIT.y + jitter(random));
        if (random.uniform() < 0.5) mirror(out, offset);
        return;
      }
      default:
        scene satisfies never;
    }
  }

  /** An animal busy with something. */
  #activity(
    { animal, activity }: Pick<ActivityScene, "animal" | "activity">,
    shift: { x: number; y: number },
    random: Random,
    out: Uint8Array,
    offset: number,
  ): void {
    for (const part of [{ ...HEADS[activity], icon: ANIMAL_ICONS[animal] }, ...PROPS[activity]]) {
      const sprite = this.#sheet.icon(part.icon, scaled(part.size, random));
      composite(out, offset, sprite, part.x + shift.x, part.y + shift.y);
    }
  }

  /** Draws scenes in one go: [N, 64, 64, 3], 0..255. */
  drawBatch(scenes: readonly Scene[], random: Random): Uint8Array {
    const out = new Uint8Array(scenes.length * IMAGE_BYTES);
    scenes.forEach((scene, i) => this.draw(scene, random, out, i * IMAGE_BYTES));
    return out;
  }
}

function scaled(size: number, random: Random): number {
  return Math.round(size * random.pick(SCALES));
}

function jitter(random: Random): number {
  return random.below(2 * SHIFT + 1) - SHIFT;
}

/** A pale ground of any hue: light enough that every tint and sprite stands out from it. */
function fillGround(out: Uint8Array, offset: number, random: Random): void {
  const hue = random.between(0, 6);
  const lightest = random.between(228, 246);
  const depth = random.between(20, 56);
  const rgb = [5, 3, 1].map((n) => {
    const k = (n + hue) % 6;
    return Math.round(lightest - depth * Math.max(0, Math.min(k, 4 - k, 1)));
  });
  for (let i = offset; i < offset + IMAGE_BYTES; i += 3) {
    out[i] = rgb[0]!;
    out[i + 1] = rgb[1]!;
    out[i + 2] = rgb[2]!;
  }
}

/** Mirrors an image, left to right. */
function mirror(out: Uint8Array, offset: number): void {
  const rowBytes = IMAGE_SIZE * 3;
  for (let row = offset; row < offset + IMAGE_BYTES; row += rowBytes) {
    for (let left = 0, right = IMAGE_SIZE - 1; left < right; left++, right--) {
      for (let c = 0; c < 3; c++) {
        const [a, b] = [row + left * 3 + c, row + right * 3 + c];
        [out[a], out[b]] = [out[b]!, out[a]!];
      }
    }
  }
}

/** Draws a sprite over the image with its centre at (x, y); what falls outside is cut off. */
function composite(out: Uint8Array, offset: number, sprite: Sprite, x: number, y: number): void {
  const left = Math.round(x - sprite.width / 2);
  const top = Math.round(y - sprite.height / 2);
  const [fromX, toX] = [Math.max(0, -left), Math.min(sprite.width, IMAGE_SIZE - left)];
  const [fromY, toY] = [Math.max(0, -top), Math.min(sprite.height, IMAGE_SIZE - top)];
  const { pixels, width } = sprite;
  for (let row = fromY; row < toY; row++) {
    let source = (row * width + fromX) * 4;
    let target = offset + ((top + row) * IMAGE_SIZE + left + fromX) * 3;
    for (let column = fromX; column < toX; column++, source += 4, target += 3) {
      const alpha = pixels[source + 3]!;
      if (alpha === 0) continue;
      for (let c = 0; c < 3; c++) {
        const under = out[target + c]!;
        out[target + c] = under + Math.round(((pixels[source + c]! - under) * alpha) / 255);
      }
    }
  }
}
