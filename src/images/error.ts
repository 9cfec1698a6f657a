import { InputError } from "../base/errors.js";

/** An image cannot be read, or a preprocessor config is not supported. */
export class ImageError extends InputError {
  override readonly name = "ImageError";
}
