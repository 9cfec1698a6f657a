/** AutoencoderKL in tiles and slices: blending against weights worked out pixel by pixel, seams, and memory. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { describe, test } from "node:test";
import { AutoencoderKL, type VaeTiling } from "../src/models/index.js";
import { arange, Generator, noGrad, randn, tensor, tidy, type Tensor } from "../src/torch/index.js";
import { assertClose, goldenSets, outputTolerance } from "./support/golden.js";

const [set] = goldenSets("vae", "io.safetensors");
const vae = AutoencoderKL.fromPretrained(set!.path("vae"));
const scale = vae.downscale; // 4
const noise = (...shape: number[]) => randn(shape, { generator: new Generator(1) });

/** What `work` returns with this tiling. */
function tiling<T>(options: VaeTiling | undefined, work: () => T): T {
  vae.tiling = options;
  try {
    return noGrad(work);
  } finally {
    vae.tiling = undefined;
  }
}

/**
 * Tiles of `size` at every `stride` pixels of x, each taken through `forward` alone. A pixel of the result is that of
 * the tile that begins last before it, mixed over the first `blend` pixels with the tile above, then with the one to
 * the left, as far as those reach.
 */
function blended(
  x: Tensor,
  [size, stride]: [number, number],
  factor: number,
  forward: (tile: Tensor) => Tensor,
): Tensor {
  const [step, blend] = [stride * factor, (size - stride) * factor];
  const [height, width] = [x.size(2), x.size(3)];
  const tiles = Array.from({ length: Math.ceil(height / stride) }, (_, i) =>
    Array.from({ length: Math.ceil(width / stride) }, (_, j) => {
      const [h, w] = [Math.min(size, height - i * stride), Math.min(size, width - j * stride)];
      const y = tidy(() =>
        forward(x.narrow(2, i * stride, h).narrow(3, j * stride, w))
          .select(0, 0)
          .contiguous(),
      );
      const [channels, rows, columns] = y.shape as [number, number, number];
      return { channels, rows, columns, data: y.toTypedArray() as Float32Array };
    }),
  );
  /** Pixel (row, column) of the whole picture as tile (i, j) has it after blending. */
  const value = (i: number, j: number, channel: number, row: number, column: number): number => {
    const { rows, columns, data } = tiles[i]![j]!;
    const [y, x] = [row - i * step, column - j * step];
    let v = data[(channel * rows + y) * columns + x]!;
    const reach = i > 0 ? Math.min(blend, rows) : 0;
    if (y < reach) v = value(i - 1, j, channel, row, column) * (1 - y / reach) + (v * y) / reach;
    const across = j > 0 ? Math.min(blend, columns) : 0;
    if (x < across) v = value(i, j - 1, channel, row, column) * (1 - x / across) + (v * x) / across;
    return v;
  };
  const { channels } = tiles[0]![0]!;
  const [rows, columns] = [height * factor, width * factor];
  const result = new Float32Array(channels * rows * columns);
  for (let at = 0; at < result.length; at++) {
    const [channel, row, column] = [Math.floor(at / (rows * columns)), Math.floor(at / columns) % rows, at % columns];
    result[at] = value(Math.floor(row / step), Math.floor(column / step), channel, row, column);
  }
  return tensor(result, { shape: [1, channels, rows, columns] });
}

describe("tiling", () => {
  test("is off by default, and a picture of one tile is the same to the last bit", () => {
    assert.equal(vae.tiling, undefined);
    tidy(() => {
      for (const [height, width] of [
        [16, 16],
        [7, 13],
      ] as const) {
        // prettier-ignore
        const latents = noise(2, 4, height, width);
        assert(tiling({}, () => vae.decode(latents)).equal(tiling(undefined, () => vae.decode(latents))));
      }
    });
  });

  // The config's 64 pixels are 16 latents, a stride of 12 and 4 latents of overlap.
  for (const [height, width] of [
    [16, 28],
    [21, 17],
    [33, 14],
    [13, 40],
  ] as const) {
    // prettier-ignore
    test(`decodes ${height} by ${width} latents as blended tiles`, () => {
      tidy(() => {
        const latents = noise(1, 4, height, width);
        const expected = blended(latents, [16, 12], scale, (tile) => noGrad(() => vae.decode(tile)));
        const actual = tiling({}, () => vae.decode(latents));
        assertClose(actual, expected, outputTolerance, `decoded ${height}x${width}`);
      });
    });
  }

  test("encodes as blended tiles", () => {
    tidy(() => {
      const images = noise(1, 3, 84, 68);
      const moments = (tile: Tensor) => noGrad(() => vae.encode(tile));
      const actual = tiling({}, () => vae.encode(images));
      // Pixels are the input here: a tile of 64 every 48, and a latent is a quarter of a pixel's side.
      const mean = blended(images, [64, 48], 1 / scale, (tile) => moments(tile).mean);
      assertClose(actual.mean, mean, outputTolerance, "encoded mean");
      const logvar = blended(images, [64, 48], 1 / scale, (tile) => moments(tile).logvar);
      assertClose(actual.logvar, logvar, outputTolerance, "encoded logvar");
    });
  });

  test("takes other tiles and overlaps, those that do not divide evenly too", () => {
    tidy(() => {
      const latents = noise(1, 4, 20, 23);
      for (const [tileSampleMinSize, tileOverlapFactor, stride] of [
        [36, 0.25, 6],
        [32, 0.5, 4],
        [40, 0, 10],
      ] as const) {
        // prettier-ignore
        const size = tileSampleMinSize / scale;
        const expected = blended(latents, [size, stride], scale, (tile) => noGrad(() => vae.decode(tile)));
        const actual = tiling({ tileSampleMinSize, tileOverlapFactor }, () => vae.decode(latents));
        assertClose(actual, expected, outputTolerance, `tiles of ${tileSampleMinSize}, overlap ${tileOverlapFactor}`);
      }
    });
  });

  test("leaves no seams in a smooth picture", () => {
    tidy(() => {
      const wave = arange(0, 40).to({ dtype: "float32" }).mul(0.15).sin();
      const latents = wave.expand([1, 4, 40, 40]);
      /** How much more the picture jumps from column to column where tiles begin than it does on the whole. */
      const seams = (options: VaeTiling, stride: number): number => {
        const picture = tiling(options, () => vae.decode(latents));
        const [before, after] = [picture.slice(3, 0, -1), picture.slice(3, 1)];
        const jumps = after
          .sub(before)
          .abs()
          .mean({ dim: [0, 1, 2] })
          .toArray();
        const mean = (values: number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
        return mean(jumps.filter((_, i) => (i + 1) % (stride * scale) === 0)) / mean(jumps);
      };
      const [hard, soft] = [seams({ tileOverlapFactor: 0 }, 16), seams({}, 12)];
      assert(
        soft < 1.5 && hard > 1.8,
        `Expected soft seams below 1.5 and hard ones above 1.8 but received ${soft}, ${hard}`,
      );
    });
  });

  test("refuses tiles that cannot be", () => {
    assert.throws(() => (vae.tiling = { tileSampleMinSize: 30 }), /positive multiple of 4 for tileSampleMinSize/);
    assert.throws(() => (vae.tiling = { tileOverlapFactor: 1 }), /below 1 for tileOverlapFactor but received 1/);
    assert.equal(vae.tiling, undefined);
  });
});

test("slicing gives what the batch gives, in tiles too", () => {
  tidy(() => {
    const latents = noise(3, 4, 9, 21);
    const [whole, tiled] = [tiling(undefined, () => vae.decode(latents)), tiling({}, () => vae.decode(latents))];
    const encoded = noGrad(() => vae.encode(whole));
    vae.slicing = true;
    try {
      assertClose(tiling(undefined, () => vae.decode(latents)), whole, outputTolerance, "decoded one by one"); // prettier-ignore
      assertClose(tiling({}, () => vae.decode(latents)), tiled, outputTolerance, "tiles, one by one"); // prettier-ignore
      assertClose(noGrad(() => vae.encode(whole)).mean, encoded.mean, outputTolerance, "encoded one by one"); // prettier-ignore
    } finally {
      vae.slicing = false;
    }
  });
});

describe("memory", () => {
  const peak = (...options: string[]): number => {
    const script = join(import.meta.dirname, "support/vae-peak.js");
    return Number(execFileSync(process.execPath, [script, ...options], { encoding: "utf8" }));
  };

  test("of a tiled picture is a tile's, and the picture itself", () => {
    const picture = 512 * 512 * 3 * 4;
    const [whole, tiled] = [peak("whole", "plain", "256"), peak("tiled", "plain", "256")];
    assert(tiled < 8 * picture, `Expected less than ${8 * picture} bytes but received ${tiled}`);
    assert(whole > 4 * tiled, `Expected more than four times ${tiled} bytes for the whole but received ${whole}`);
  });

  test("of the middle's attention does not grow with the square of the pixels", () => {
    const scores = (128 * 128) ** 2 * 4;
    const attended = peak("whole", "attention", "128");
    assert(attended < scores / 2, `Expected less than half of ${scores} bytes but received ${attended}`);
  });
});
