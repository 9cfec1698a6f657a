/**
 * Prepares images for CLIP: resize the shortest side, crop the centre, normalise colours, as transformers'
 * CLIPImageProcessor does with PIL.
 *
 * The resize is PIL's: a filter (bicubic, unless the config names another) with antialiasing, along the rows and then
 * along the columns, each rounded to 8 bits. It is computed as a product with two small matrices, on any device and on
 * whole batches. `rounding: false` skips the rounding, which blocks gradients; pixels then differ by up to about one
 * step in 255.
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject } from "../base/files.js";
import { show, showProblems } from "../base/show.js";
import { pad, tensor, tidy, type Tensor } from "../torch/index.js";
import { ImageError } from "./error.js";

/** A side in pixels. The bound catches damaged configs. */
const side = z
  .int()
  .positive()
  .max(2 ** 14);
const triple = z.array(z.number()).length(3);

/** PIL's filters by number: support, and weight as a function of distance. */
const FILTERS = {
  1: { support: 3, weight: lanczos },
  2: { support: 1, weight: (x: number) => Math.max(1 - Math.abs(x), 0) },
  3: { support: 2, weight: bicubic },
} as const;

const BICUBIC = 3;

/** PIL rounds weights to multiples of this. */
const UNIT = 2 ** 22;

interface Size {
  readonly height: number;
  readonly width: number;
}

const schema = z.object({
  do_resize: z.boolean().default(true),
  /** Early versions wrote a bare number. */
  size: z
    .union([
      z.strictObject({ shortest_edge: side }),
      z.strictObject({ height: side, width: side }),
      side.transform((n) => ({ shortest_edge: n })),
    ])
    .default({ shortest_edge: 224 }),
  resample: z.literal([1, 2, 3]).default(BICUBIC),
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
  image_std: z.array(z.number().positive()).length(3).default([0.26862954, 0.26130258, 0.27577711]),
});

export type PreprocessorConfig = z.output<typeof schema>;

/**
 * Reads `preprocessor_config.json`; defaults to OpenAI's settings at 224 pixels if the folder has none.
 *
 * @param options.imageSize input size of the model, `image_size` of its vision config
 * @throws ImageError naming the file and each key whose value is not supported, or that gives another image size
 */
export function readPreprocessorConfig(
  folder: string,
  { imageSize }: { readonly imageSize?: number } = {},
): PreprocessorConfig {
  const file = join(folder, "preprocessor_config.json");
  const result = schema.safeParse(existsSync(file) ? readJsonObject(file, ImageError) : {});
  if (!result.success) {
    const problems = result.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
    throw new ImageError(
      `${file}: Expected settings of CLIPImageProcessor but received ${showProblems(problems, "; ")}`,
    );
  }
  if (imageSize !== undefined) checkSize(result.data, imageSize, file);
  return result.data;
}

/** Refuses settings whose images the model cannot take. */
function checkSize(config: PreprocessorConfig, imageSize: number, file: string): void {
  const [key, size] = config.do_center_crop
    ? (["crop_size", config.crop_size] as const)
    : (["size", config.do_resize ? config.size : undefined] as const);
  if (size !== undefined && "height" in size && size.height === imageSize && size.width === imageSize) return;
  const expected = `a height and a width of ${imageSize}, the image_size of the model's vision_config,`;
  throw new ImageError(`${file}: Expected ${expected} for ${key} but received ${show(size)}`);
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
    const bounded = (x: Tensor) => x.clamp({ min: 0, max: 255 });
    const scaled = images.to({ dtype: "float32" }).mul(255);
    let pixels = bounded(rounding ? scaled.round() : scaled);
    if (config.do_resize) {
      // PIL computes in integers and always rounds halves up. They are frequent, and float32 would miss some.
      const exact = pixels.to({ dtype: images.device === "mps" ? "float32" : "float64" });
      pixels = resize(exact, config, (x) => bounded(rounding ? x.add(0.5).floor() : x)).to({ dtype: "float32" });
    }
    if (config.do_center_crop) pixels = centreCrop(pixels, config.crop_size);
    const unit = pixels.div(255);
    if (!config.do_normalize) return unit;
    const perChannel = (values: readonly number[]) =>
      tensor(Float32Array.from(values), { shape: [1, 3, 1, 1], device: images.device });
    return unit.sub(perChannel(config.image_mean)).div(perChannel(config.image_std));
  });
}

function resize(pixels: Tensor, { size, resample }: PreprocessorConfig, to8Bits: (x: Tensor) => Tensor): Tensor {
  const [height, width] = [pixels.size(2), pixels.size(3)];
  const to = "shortest_edge" in size ? withShortestEdge(size.shortest_edge, { height, width }) : size;
  const onDevice = (matrix: Tensor) => matrix.to({ device: pixels.device, dtype: pixels.dtype });
  // As PIL: horizontally first, then vertically. A side that keeps its length is not resampled.
  const across =
    to.width === width
      ? pixels
      : to8Bits(pixels.matmul(onDevice(resizeMatrix(width, to.width, resample)).transpose(0, 1)));
  return to.height === height ? across : to8Bits(onDevice(resizeMatrix(height, to.height, resample)).matmul(across));
}

function withShortestEdge(shortest: number, { height, width }: Size): Size {
  const long = Math.floor((shortest * Math.max(height, width)) / Math.min(height, width));
  return height <= width ? { height: shortest, width: long } : { height: long, width: shortest };
}

/** The resampling matrix from `from` to `to` pixels: [to, from]. */
function resizeMatrix(from: number, to: number, resample: keyof typeof FILTERS): Tensor {
  const filter = FILTERS[resample];
  const scale = from / to;
  const stretch = Math.max(scale, 1); // the filter grows when an image shrinks
  const support = filter.support * stretch;
  const matrix = new Float32Array(to * from);
  for (let row = 0; row < to; row++) {
    const centre = (row + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const last = Math.min(Math.trunc(centre + support + 0.5), from);
    const weights = Array.from({ length: last - first }, (_, i) => filter.weight((first + i - centre + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    weights.forEach((weight, i) => (matrix[row * from + first + i] = Math.round((weight / sum) * UNIT) / UNIT));
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

/** Lanczos with a = 3: a sinc, windowed by the main lobe of one three times as wide. */
function lanczos(x: number): number {
  const sinc = (t: number) => (t === 0 ? 1 : Math.sin(Math.PI * t) / (Math.PI * t));
  return Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
}

/** Crops the centre of an image, padding with black. */
function centreCrop(pixels: Tensor, { height, width }: Size): Tensor {
  const [h, w] = [pixels.size(2), pixels.size(3)];
  // If the image is smaller, transformers adds the odd row or column of black at the top and at the left.
  const [above, before] = [Math.max(Math.ceil((height - h) / 2), 0), Math.max(Math.ceil((width - w) / 2), 0)];
  const [below, behind] = [Math.max(height - h - above, 0), Math.max(width - w - before, 0)];
  const whole = above + before + below + behind > 0 ? pad(pixels, [before, behind, above, below], 0) : pixels;
  return whole.narrow(2, cropStart(h, height), height).narrow(3, cropStart(w, width), width);
}

const cropStart = (length: number, crop: number): number => Math.max(Math.floor((length - crop) / 2), 0);
