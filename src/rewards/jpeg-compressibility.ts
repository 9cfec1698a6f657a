/** Compressibility (Black et al. 2023, arXiv 2305.13301, section 5.1): minus the kilobytes of an image as JPEG. */
import { z } from "zod";
import { tidy, type Tensor } from "../torch/index.js";
import { defineReward } from "./reward.js";

export const jpegCompressibility = defineReward({
  name: "jpeg-compressibility",
  summary: "Minus the kilobytes of the image as JPEG",
  cost: "encoding each image on the CPU, some milliseconds for 512x512",
  options: z.object({
    quality: z.int().min(1).max(100).default(95).describe("JPEG's quality."),
  }),
  open: async ({ quality }) => {
    const [{ default: sharp }, { encodePng }] = [await import("sharp"), await import("../images/index.js")];
    const kilobytes = async (image: Tensor): Promise<number> => {
      const png = encodePng(image);
      image.dispose();
      return (await sharp(png).jpeg({ quality }).toBuffer()).length / 1000;
    };
    return {
      score: (images: Tensor) =>
        Promise.all(
          Array.from({ length: images.size(0) }, async (_, i) => -(await kilobytes(tidy(() => images.select(0, i))))),
        ),
    };
  },
});
