/**
 * Writes images as PNG, and reads any format that sharp supports. The encoder is our own and synchronous (PNG
 * specification, third edition): 8-bit RGB, each row as differences to its left neighbour, one zlib stream.
 */
import { crc32, deflateSync } from "node:zlib";
import { writeFileAtomic } from "../base/files.js";
import { showShape } from "../base/show.js";
import { tensor, tidy, type Tensor } from "../torch/index.js";
import { ImageError } from "./error.js";

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const RGB = 3;
const FILTER_SUB = 1;

/**
 * Encodes an image as PNG.
 *
 * @param image [3, H, W] in 0..1; other values are clamped
 */
export function encodePng(image: Tensor): Uint8Array {
  const [channels, height, width] = image.shape;
  if (image.ndim !== 3 || channels !== RGB || !height || !width) {
    throw new RangeError(`Expected [3, H, W] for an image but received ${showShape(image.shape)}`);
  }
  const pixels = toPixels(image);
  const stride = width * RGB;
  const rows = Buffer.alloc(height * (stride + 1));
  for (let y = 0; y < height; y++) {
    const [from, to] = [y * stride, y * (stride + 1)];
    rows[to] = FILTER_SUB;
    for (let x = 0; x < stride; x++) {
      rows[to + 1 + x] = pixels[from + x]! - (x < RGB ? 0 : pixels[from + x - RGB]!);
    }
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2], 8); // bits, colour type: the rest is 0
  const chunks = [chunk("IHDR", header), chunk("IDAT", deflateSync(rows)), chunk("IEND", new Uint8Array(0))];
  return Buffer.concat([SIGNATURE, ...chunks]);
}

/**
 * Writes a PNG file, atomically.
 *
 * @param image [3, H, W] in 0..1, or the bytes of a PNG
 */
export function writePng(file: string, image: Tensor | Uint8Array): void {
  writeFileAtomic(file, image instanceof Uint8Array ? image : encodePng(image));
}

/**
 * Reads an image of any format that sharp supports; transparent pixels are blended with white.
 *
 * @returns [3, H, W] in 0..1
 * @throws ImageError naming the file when it is not an image, or damaged
 */
export async function readImage(file: string): Promise<Tensor> {
  // Loaded only here: sharp's native libraries take as long to load as all else that a command imports.
  const { default: sharp } = await import("sharp");
  const image = sharp(file).flatten({ background: "#ffffff" }).toColourspace("srgb").removeAlpha();
  const { data, info } = await image
    .raw()
    .toBuffer({ resolveWithObject: true })
    .catch((cause: Error) => {
      throw new ImageError(`${file}: Expected an image but received: ${cause.message}`, { cause });
    });
  return tidy(() =>
    tensor(new Uint8Array(data), { shape: [info.height, info.width, info.channels] })
      .permute([2, 0, 1])
      .to({ dtype: "float32" })
      .contiguous()
      .div(255),
  );
}

/** [3, H, W] in 0..1 to bytes, pixel by pixel: [H, W, 3] in 0..255, rounded and clamped. */
export function toPixels(image: Tensor): Uint8Array {
  const bytes = tidy(() =>
    image
      .detach()
      .permute([1, 2, 0])
      .to({ dtype: "float32" })
      .mul(255)
      .round()
      .clamp({ min: 0, max: 255 })
      .to({ dtype: "uint8", device: "cpu" }),
  );
  try {
    return bytes.toTypedArray() as Uint8Array;
  } finally {
    bytes.dispose();
  }
}

function chunk(type: string, data: Uint8Array): Buffer {
  const bytes = Buffer.alloc(12 + data.length);
  bytes.writeUInt32BE(data.length, 0);
  bytes.write(type, 4, "latin1");
  bytes.set(data, 8);
  bytes.writeUInt32BE(crc32(bytes.subarray(4, 8 + data.length)), 8 + data.length);
  return bytes;
}
