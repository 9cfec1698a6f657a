/** Tensors over files, without reading them. */
import { statSync } from "node:fs";
import { ITEM_SIZE, type DType } from "./dtypes.js";
import { inWords, TorchError } from "./error.js";
import { aten, type Tensor } from "./tensor.js";

/**
 * A tensor over a memory-mapped file: nothing is read until it is used, and writing to the tensor does not reach the
 * file. The file must not shrink while the tensor lives (the operating system ends processes that read past its end).
 *
 * @param size number of elements from the start of the file
 */
export function fromFile(path: string, { dtype = "uint8", size }: { dtype?: DType; size: number }): Tensor {
  if (typeof path !== "string") {
    throw new TorchError(`Expected a path for fromFile but received ${inWords(path)}`, "fromFile");
  }
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new TorchError(`Expected a number of elements for fromFile but received ${inWords(size)}`, "fromFile");
  }
  const bytes = statSync(path, { throwIfNoEntry: false })?.size;
  if (bytes === undefined) {
    throw new TorchError(`Expected a file for fromFile but received ${path}, which does not exist`, "fromFile");
  }
  if (size * ITEM_SIZE[dtype] > bytes) {
    throw new TorchError(
      `Expected at least ${size * ITEM_SIZE[dtype]} bytes in ${path} but it has ${bytes}`,
      "fromFile",
    );
  }
  return aten.fromFile(path, false, size, dtype);
}
