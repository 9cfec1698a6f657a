/** A picture that cannot be read, or settings of a preprocessor that are not honoured. */
export class ImageError extends Error {
  override readonly name = "ImageError";
}
