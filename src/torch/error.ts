/**
 * The errors of this folder. Whatever goes wrong in an operator, in the conversion of its arguments or in libtorch is a
 * TorchError: native/ receives this class and throws it from its single catch boundary. That nothing could be loaded is
 * an AddonError.
 */
import { InputError } from "../base/errors.js";

export class TorchError extends Error {
  override readonly name = "TorchError";
  /** The operator's full name, as "aten::add.Tensor", or the function's of this library. */
  readonly operator: string;
  /** The tensor arguments in words, as ["self float32[2, 3]", "other int64[4]"]. */
  readonly tensors: readonly string[];

  /** @param message a sentence: what was expected, what came */
  constructor(message: string, operator = "", tensors: readonly string[] = []) {
    super(message);
    this.operator = operator;
    this.tensors = tensors;
  }
}

/**
 * What is said where a device has no memory left: by libtorch of a GPU and by this project's allocator, by libtorch of the
 * CPU, and by C++.
 */
const OUT_OF_MEMORY = /out of memory|can't allocate memory|std::bad_alloc/;

/** Whether an error says that a device has no memory left. */
export const isOutOfMemory = (error: unknown): error is TorchError =>
  error instanceof TorchError && OUT_OF_MEMORY.test(error.message);

/** The native addon is not built, or does not load: an installation to be mended, not a fault of this code. */
export class AddonError extends InputError {
  override readonly name = "AddonError";
}

/**
 * A short rendering of any value for an error message. Never throws, never longer than a line.
 *
 * native/convert.cc has the same for the arguments that native code converts: these are values of JavaScript's that have
 * not crossed the border, those are handles of V8's, and neither side can lend the other its own without a call back.
 */
export function inWords(value: unknown): string {
  try {
    switch (typeof value) {
      case "string":
        return value.length > 40 ? `the string ${JSON.stringify(value.slice(0, 40))}…` : `the string "${value}"`;
      case "function":
        return "a function";
      case "symbol":
        return "a symbol";
      case "bigint":
        return `${value}n`;
      case "object": {
        if (value === null) return "null";
        if (Array.isArray(value)) return `an array of ${value.length}`;
        const { constructor } = value as { constructor?: unknown };
        return typeof constructor === "function" ? `an object (${constructor.name})` : "an object";
      }
      case "number":
      case "boolean":
      case "undefined":
        return String(value);
    }
  } catch {
    return "an object that cannot be described";
  }
}
