/**
 * Compressibility and incompressibility (Black et al. 2023, arXiv 2305.13301, section 5.1): the kilobytes of an image as
 * JPEG, of which the first wants few and the second many.
 */
import { z } from "zod";
import { tidy, type Tensor } from "../torch/index.js";
import { defineReward, type Reward } from "./reward.js";

const options = z.object({
  quality: z.int().min(1).max(100).default(95).describe("JPEG's quality."),
});

const shared = {
  cost: "encoding each image on the CPU, some milliseconds for 512x512",
  source: "Black et al. 2023, arXiv 2305.13301, section 5.1",
  licence: "none is needed",
  options,
};

/** @param sign of a kilobyte */
async function open({ quality }: z.output<typeof options>, sign: 1 | -1): Promise<Reward> {
  const [{ default: sharp }, { encodePng }] = [await import("sharp"), await import("../images/index.js")];
  const kilobytes = async (image: Tensor): Promise<number> => {
    const png = encodePng(image);
    image.dispose();
    return (await sharp(png).jpeg({ quality }).toBuffer()).length / 1000;
  };
  return {
    score: (images: Tensor) =>
      Promise.all(
        Array.from(
          { length: images.size(0) },
          async (_, i) => sign * (await kilobytes(tidy(() => images.select(0, i)))),
        ),
      ),
  };
}

export const jpegCompressibility = defineReward({
  ...shared,
  name: "jpeg-compressibility",
  summary: "Minus the kilobytes of the image as JPEG",
  range: "below 0; about -150 to -20 for photographs of 512x512",
  open: (chosen) => open(chosen, -1),
});

export const jpegIncompressibility = defineReward({
  ...shared,
  name: "jpeg-incompressibility",
  summary: "The kilobytes of the image as JPEG",
  range: "above 0; about 20 to 150 for photographs of 512x512",
  open: (chosen) => open(chosen, 1),
});
