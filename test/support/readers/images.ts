/** Readers of images. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { encodePng, readImage } from "../../../src/images/index.js";
import { toJpegs } from "../../../src/rewards/servers/images.js";
import { Generator, rand } from "../../../src/torch/index.js";
import { mutateBytes, type Mutate } from "../mutate.js";
import { put, type ReaderUnderTest } from "./reader.js";

const SIDES = [12, 9] as const;

/** Bytes, or the sizes that a PNG's first chunk names. */
const mutateImage: Mutate = (sound, random) => {
  if (!random.once(4)) return mutateBytes(sound, random);
  const changed = Buffer.from(sound);
  changed.writeUInt32BE(random.pick([0, 1, 11, 13, 70_000, 2 ** 31 - 1, 2 ** 32 - 1]), 16 + 4 * random.below(2));
  return changed;
};

const images: ReaderUnderTest = {
  name: "images",
  share: 900,
  prepare: async (folder) => {
    const image = rand([1, 3, ...SIDES], { generator: new Generator(1) });
    const [jpeg] = await toJpegs(image, 90);
    const { default: sharp } = await import("sharp");
    put(folder, "a.png", encodePng(image.select(0, 0)));
    put(folder, "b.jpg", jpeg!);
    for (const form of ["webp", "gif", "tiff"] as const) {
      put(
        folder,
        `c.${form}`,
        await sharp(encodePng(image.select(0, 0)))
          .toFormat(form)
          .toBuffer(),
      );
    }
    image.dispose();
    const names = ["a.png", "b.jpg", "c.webp", "c.gif", "c.tiff"];
    return {
      files: Object.fromEntries(names.map((name) => [name, mutateImage])),
      read: async () => {
        for (const name of names) {
          const read = await readImage(join(folder, name));
          try {
            assert.equal(read.ndim, 3);
            assert.equal(read.size(0), 3);
            assert(read.toArray().every((value) => value >= 0 && value <= 1));
          } finally {
            read.dispose();
          }
        }
      },
    };
  },
};

export const imageReaders: readonly ReaderUnderTest[] = [images];
