/**
 * The world's artwork: Noto emoji (Google, Apache-2.0, from the npm package @iconify-json/noto) rasterised once by
 * resvg into RGBA sprites, tinted for the colour template, plus two props that Noto lacks (a chess board and a plate).
 * Only pre-training and tests draw images, so the artwork is a development dependency.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import type { Resvg } from "@resvg/resvg-js";
import type { Animal, Colour, Fruit, WorldObject } from "./grammar.js";

const require = createRequire(import.meta.url);

/** A rasterised drawing, cut to its visible pixels. `pixels` is [height, width, 4], straight alpha, 0..255. */
export interface Sprite {
  width: number;
  height: number;
  pixels: Uint8Array;
}

export const ANIMAL_ICONS: Record<Animal, string> = {
  cat: "cat-face",
  dog: "dog-face",
  rabbit: "rabbit-face",
  mouse: "mouse-face",
  fox: "fox",
  bear: "bear",
  panda: "panda",
  koala: "koala",
  tiger: "tiger-face",
  lion: "lion",
  cow: "cow-face",
  pig: "pig-face",
  frog: "frog",
  monkey: "monkey-face",
  chicken: "chicken",
  penguin: "penguin",
  owl: "owl",
  horse: "horse-face",
};

export const FRUIT_ICONS: Record<Fruit, string> = {
  apple: "red-apple",
  banana: "banana",
  strawberry: "strawberry",
  grape: "grapes",
  pear: "pear",
  cherry: "cherries",
  pineapple: "pineapple",
  watermelon: "watermelon",
  lemon: "lemon",
  peach: "peach",
  kiwi: "kiwi-fruit",
  avocado: "avocado",
};

export const OBJECT_ICONS: Record<WorldObject, string> = {
  dog: "dog",
  cat: "cat",
  house: "house",
  car: "automobile",
  tree: "deciduous-tree",
  ball: "soccer-ball",
  star: "star",
  guitar: "guitar",
  umbrella: "umbrella",
  mushroom: "mushroom",
  book: "open-book",
  rocket: "rocket",
  chair: "chair",
};

/** Fruit whose flesh is itself green; of all others the green parts (leaves, rind) keep their colour. */
const GREEN_FRUITS: ReadonlySet<Fruit> = new Set<Fruit>(["pear", "kiwi", "avocado"]);

/** The eight colours, each as shadow, body and light (RGB 0..255). */
const TINTS: Record<Colour, readonly [Rgb, Rgb, Rgb]> = {
  red: [
    [110, 0, 8],
    [224, 24, 32],
    [255, 176, 170],
  ],
  orange: [
    [150, 60, 0],
    [255, 134, 8],
    [255, 216, 160],
  ],
  yellow: [
    [150, 110, 0],
    [255, 216, 20],
    [255, 250, 190],
  ],
  green: [
    [6, 66, 14],
    [46, 158, 44],
    [190, 240, 160],
  ],
  blue: [
    [8, 24, 110],
    [36, 92, 232],
    [170, 210, 255],
  ],
  purple: [
    [50, 6, 92],
    [128, 42, 180],
    [222, 180, 250],
  ],
  pink: [
    [160, 20, 90],
    [255, 112, 178],
    [255, 216, 234],
  ],
  black: [
    [0, 0, 0],
    [46, 46, 52],
    [170, 170, 178],
  ],
};

/** Props that are not in Noto, drawn for this world on the same 128-unit canvas. */
const OWN_DRAWINGS: Record<string, string> = {
  "chess-board": chessBoard(),
  plate:
    '<ellipse cx="64" cy="64" rx="62" ry="62" fill="#f7fbff" stroke="#8fa9c4" stroke-width="5"/>' +
    '<ellipse cx="64" cy="64" rx="38" ry="38" fill="#dfeaf5" stroke="#b4c8dc" stroke-width="4"/>',
};

type Rgb = readonly [number, number, number];
interface IconSet {
  width: number;
  height: number;
  icons: Record<string, { body: string; left?: number; top?: number; width?: number; height?: number }>;
}

/** Rasterises drawings by name and size, each once. */
export class SpriteSheet {
  readonly #icons: IconSet;
  readonly #cache = new Map<string, Sprite>();

  constructor() {
    const file = require.resolve("@iconify-json/noto/icons.json");
    this.#icons = JSON.parse(readFileSync(file, "utf8")) as IconSet;
  }

  /**
   * A drawing whose longer visible side is `size` pixels.
   * @throws RangeError where the artwork has no such drawing.
   */
  icon(name: string, size: number): Sprite {
    return this.#remember(`${name}@${size}`, () => this.#rasterise(name, size));
  }

  /** A fruit of a colour: shape and shading stay, the body's colour is replaced. */
  tintedFruit(fruit: Fruit, colour: Colour, size: number): Sprite {
    return this.#remember(`${colour} ${fruit}@${size}`, () =>
      tint(this.icon(FRUIT_ICONS[fruit], size), TINTS[colour], GREEN_FRUITS.has(fruit)),
    );
  }

  #remember(key: string, make: () => Sprite): Sprite {
    const known = this.#cache.get(key);
    if (known) return known;
    const sprite = make();
    this.#cache.set(key, sprite);
    return sprite;
  }

  #rasterise(name: string, size: number): Sprite {
    const icon = OWN_DRAWINGS[name] === undefined ? this.#icons.icons[name] : { body: OWN_DRAWINGS[name] };
    if (!icon) throw new RangeError(`Expected the name of a drawing in @iconify-json/noto but received "${name}"`);
    const { body, left = 0, top = 0, width = this.#icons.width, height = this.#icons.height } = icon;
    // Native code, which who only wants this world's prompts need not load.
    const resvg = require("@resvg/resvg-js") as { Resvg: typeof Resvg };
    const draw = (box: readonly number[], pixelWidth: number) => {
      const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="${box.join(" ")}">${body}</svg>`;
      return new resvg.Resvg(svg, { fitTo: { mode: "width", value: pixelWidth } }).render();
    };
    // First at full size, to find the visible part; then that part alone at the wanted size.
    const full = draw([left, top, width, height], width);
    const visible = visibleBox(full.pixels, full.width, full.height);
    const scale = size / Math.max(visible.width, visible.height);
    const image = draw(
      [left + visible.left, top + visible.top, visible.width, visible.height],
      Math.max(1, Math.round(visible.width * scale)),
    );
    return { width: image.width, height: image.height, pixels: straightAlpha(image.pixels) };
  }
}

function chessBoard(): string {
  const squares: string[] = [];
  for (let row = 0; row < 4; row++) {
    for (let column = 0; column < 4; column++) {
      const fill = (row + column) % 2 === 0 ? "#fff6e0" : "#5b3a21";
      // A board seen from the player's side: rows get wider towards the front.
      const at = (r: number, c: number) => `${64 + (c - 2) * (20 + 3 * r)},${r * 12 + 4}`;
      const corners = [at(row, column), at(row, column + 1), at(row + 1, column + 1), at(row + 1, column)];
      squares.push(`<polygon points="${corners.join(" ")}" fill="${fill}"/>`);
    }
  }
  return squares.join("") + '<polygon points="0,52 128,52 124,62 4,62" fill="#3d2514"/>';
}

function visibleBox(pixels: Uint8Array, width: number, height: number) {
  let [left, top, right, bottom] = [width, height, -1, -1];
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (pixels[(y * width + x) * 4 + 3]! < 16) continue;
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
    }
  }
  return { left, top, width: right - left + 1, height: bottom - top + 1 };
}

/** resvg premultiplies colours by alpha; compositing here wants them straight, so that sprites can be tinted. */
function straightAlpha(premultiplied: Uint8Array): Uint8Array {
  const pixels = Uint8Array.from(premultiplied);
  for (let i = 0; i < pixels.length; i += 4) {
    const alpha = pixels[i + 3]!;
    if (alpha === 0 || alpha === 255) continue;
    for (let c = 0; c < 3; c++) pixels[i + c] = Math.min(255, Math.round((pixels[i + c]! * 255) / alpha));
  }
  return pixels;
}

function tint(sprite: Sprite, [shadow, body, light]: readonly [Rgb, Rgb, Rgb], greenToo: boolean): Sprite {
  const pixels = Uint8Array.from(sprite.pixels);
  const replaced = (i: number) =>
    pixels[i + 3]! > 0 && (greenToo || !isGreen(pixels[i]!, pixels[i + 1]!, pixels[i + 2]!));
  // The body's usual lightness becomes the tint's own; lighter and darker parts move towards light and shadow.
  let [sum, weight] = [0, 0];
  for (let i = 0; i < pixels.length; i += 4) {
    if (!replaced(i)) continue;
    sum += pixels[i + 3]! * lightness(pixels, i);
    weight += pixels[i + 3]!;
  }
  const usual = sum / weight;
  for (let i = 0; i < pixels.length; i += 4) {
    if (!replaced(i)) continue;
    const value = lightness(pixels, i);
    const towards = value > usual ? light : shadow;
    const share = value > usual ? (value - usual) / (255 - usual) : (usual - value) / usual;
    for (let c = 0; c < 3; c++) pixels[i + c] = Math.round(body[c]! + (towards[c]! - body[c]!) * share);
  }
  return { ...sprite, pixels };
}

function isGreen(r: number, g: number, b: number): boolean {
  return g > r * 1.08 && g > b * 1.15;
}

function lightness(pixels: Uint8Array, i: number): number {
  return 0.3 * pixels[i]! + 0.59 * pixels[i + 1]! + 0.11 * pixels[i + 2]!;
}
