import { InputError } from "../base/errors.js";

/** An image that cannot be read, or settings of a preprocessor that are not honoured. */
export class ImageError extends InputError {
  override readonly name = "ImageError";
}
