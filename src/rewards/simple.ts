/** Rewards that need no model: to try a set-up out, and to see a policy learn something quickly. */
import sharp from "sharp";
import { encodePng } from "../images/index.js";
import { tidy } from "../torch/index.js";
import type { Reward } from "./reward.js";

/** The mean of all pixels and channels, 0 to 1. */
export const brightness: Reward = (images) => {
  const means = tidy(() => images.mean({ dim: [1, 2, 3] }));
  try {
    return means.toArray();
  } finally {
    means.dispose();
  }
};

/** Minus the kilobytes of the image as JPEG of quality 95 (Black et al. 2023, arXiv 2305.13301, section 5.1). */
export const jpegCompressibility: Reward = (images) =>
  Promise.all(
    Array.from({ length: images.size(0) }, async (_, i) => {
      const image = tidy(() => images.select(0, i));
      const png = encodePng(image);
      image.dispose();
      const jpeg = await sharp(png).jpeg({ quality: 95 }).toBuffer();
      return -jpeg.length / 1000;
    }),
  );
