/** The format of the world's pictures: square, rows of RGB bytes. */
export const PICTURE_SIZE = 64;
/** Bytes of one picture, [64, 64, 3]. */
export const PICTURE_BYTES = PICTURE_SIZE * PICTURE_SIZE * 3;
