/** The format of the world's images: square, rows of RGB bytes. */
export const IMAGE_SIZE = 64;
/** Bytes of one image, [64, 64, 3]. */
export const IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3;
