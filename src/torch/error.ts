/**
 * The one error of this folder: whatever goes wrong in an operator, in the conversion of its arguments or in libtorch
 * arrives as a TorchError. native/ receives this class and throws it from its single catch boundary.
 */
export class TorchError extends Error {
  override readonly name = "TorchError";

  /**
   * @param message a sentence: what was expected, what came
   * @param operator the operator's full name, as "aten::add.Tensor", or the function's of this library
   * @param tensors the tensor arguments in words, as ["self float32[2, 3]", "other int64[4]"]
   */
  constructor(
    message: string,
    readonly operator: string = "",
    readonly tensors: readonly string[] = [],
  ) {
    super(message);
  }
}

/** A short rendering of any value for an error message. Never throws, never longer than a line. */
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
