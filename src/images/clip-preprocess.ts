/**
 * What CLIP wants of a picture: shortest side resized, centre cut out, colours normalised, as transformers'
 * CLIPImageProcessor does through PIL.
 *
 * The resize is PIL's: bicubic with antialiasing (a = -0.5), along the rows and then along the columns, each rounded
 * to 8 bits. It is a product with two small matrices, so that it runs on any device and on batches. `rounding: false`
 * leaves out the rounding, through which no
 * gradient passes; pixels then differ by up to one step in 255 or so.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { tensor, tidy, type Tensor } from "../torch/index.js";

const side = z.number().int().positive();
const triple = z.array(z.number()).length(3);
const BICUBIC = 3;

const schema = z.object({
  do_resize: z.boolean().default(true),
  /** Early versions wrote a bare number. */
  size: z.union([z.strictObject({ shortest_edge: side }), side.transform((n) => ({ shortest_edge: n }))]).default({
    shortest_edge: 224,
  }),
  resample: z.literal(BICUBIC).default(BICUBIC),
  do_center_crop: z.boolean().default(true),
  crop_size: z
    .union([z.strictObject({ height: side, width: side }), side.transform((n) => ({ height: n, width: n }))])
    .default({ height: 224, width: 224 }),
  do_rescale: z.literal(true).default(true),
  rescale_factor: z
    .number()
    .refine((factor) => Math.abs(factor * 255 - 1) < 1e-6, "Invalid input: expected 1/255")
    .default(1 / 255),
  do_normalize: z.boolean().default(true),
  image_mean: triple.default([0.48145466, 0.4578275, 0.40821073]),
  image_std: triple.default([0.26862954, 0.26130258, 0.27577711]),
});

export type PreprocessorConfig = z.output<typeof schema>;

/**
 * Reads `preprocessor_config.json`; OpenAI's settings at 224 pixels where the folder has none.
 *
 * @throws Error naming the file and each key whose value is not honoured
 */
export function readPreprocessorConfig(folder: string): PreprocessorConfig {
  const file = join(folder, "preprocessor_config.json");
  if (!existsSync(file)) return schema.parse({});
  const result = schema.safeParse(JSON.parse(readFileSync(file, "utf8")));
  if (result.success) return result.data;
  const problems = result.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new Error(`${file}: Expected settings of CLIPImageProcessor but received ${problems.join("; ")}`);
}

/**
 * @param images [B, 3, H, W] in 0..1
 * @param options.rounding to 8 bits at every step, as PIL; default true
 * @returns [B, 3, crop height, crop width], normalised
 */
export function clipPreprocess(
  images: Tensor,
  config: PreprocessorConfig,
  { rounding = true }: { rounding?: boolean } = {},
): Tensor {
  return tidy(() => {
    const to8Bits = (x: Tensor) => (rounding ? x.round() : x).clamp({ min: 0, max: 255 });
    let pixels = to8Bits(images.to({ dtype: "float32" }).mul(255));
    if (config.do_resize) pixels = resize(pixels, config.size.shortest_edge, to8Bits);
    if (config.do_center_crop) pixels = centreCrop(pixels, config.crop_size);
    const unit = pixels.div(255);
    if (!config.do_normalize) return unit;
    const perChannel = (values: readonly number[]) =>
      tensor(Float32Array.from(values), { shape: [1, 3, 1, 1], device: images.device });
    return unit.sub(perChannel(config.image_mean)).div(perChannel(config.image_std));
  });
}

function resize(pixels: Tensor, shortest: number, to8Bits: (x: Tensor) => Tensor): Tensor {
  const [height, width] = [pixels.size(2), pixels.size(3)];
  if (Math.min(height, width) === shortest) return pixels;
  const long = Math.floor((shortest * Math.max(height, width)) / Math.min(height, width));
  const [newHeight, newWidth] = height <= width ? [shortest, long] : [long, shortest];
  const onDevice = (matrix: Tensor) => matrix.to({ device: pixels.device });
  // PIL: horizontally first, then vertically. A side that stays is not touched.
  const across =
    newWidth === width ? pixels : to8Bits(pixels.matmul(onDevice(bicubicMatrix(width, newWidth)).transpose(0, 1)));
  return newHeight === height ? across : to8Bits(onDevice(bicubicMatrix(height, newHeight)).matmul(across));
}

/** Weights of `from` pixels in each of `to` pixels: [to, from]. */
function bicubicMatrix(from: number, to: number): Tensor {
  const scale = from / to;
  const stretch = Math.max(scale, 1); // the filter grows when a picture shrinks
  const support = 2 * stretch;
  const matrix = new Float32Array(to * from);
  for (let row = 0; row < to; row++) {
    const centre = (row + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const weights = Array.from({ length: last - first }, (_, i) => bicubic((first + i - centre + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    weights.forEach((weight, i) => (matrix[row * from + first + i] = weight / sum));
  }
  return tensor(matrix, { shape: [to, from] });
}

/** Keys' cubic convolution kernel with a = -0.5. */
function bicubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
}

/** The middle of a picture; what lies outside of it is black. */
function centreCrop(pixels: Tensor, { height, width }: { height: number; width: number }): Tensor {
  const [, , h, w] = pixels.shape as [number, number, number, number];
  if (h < height || w < width) {
    throw new RangeError(`Expected at least ${height} by ${width} pixels to crop but received ${h} by ${w}`);
  }
  return pixels.narrow(2, Math.floor((h - height) / 2), height).narrow(3, Math.floor((w - width) / 2), width);
}
