import { InputError } from "../base/errors.js";

/** The one error of this folder: a safetensors file that cannot be what it claims to be. */
export class SafetensorsError extends InputError {
  override readonly name = "SafetensorsError";

  /**
   * @param file the file at fault
   * @param problem a sentence, "Expected X for Y but received Z"
   * @param key the tensor at fault, where the problem is one tensor's
   */
  constructor(
    readonly file: string,
    readonly problem: string,
    readonly key?: string,
  ) {
    super(key === undefined ? `${file}: ${problem}` : `${file}: ${key}: ${problem}`);
  }
}
