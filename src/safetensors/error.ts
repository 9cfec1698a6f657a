import { InputError } from "../base/errors.js";

/** The one error of this folder: a safetensors file that is damaged, or not what it was taken for. */
export class SafetensorsError extends InputError {
  override readonly name = "SafetensorsError";
  /** The file at fault. */
  readonly file: string;
  /** A sentence: "Expected X for Y but received Z". */
  readonly problem: string;
  /** The tensor at fault, where the problem is one tensor's. */
  readonly key: string | undefined;

  constructor(file: string, problem: string, key?: string, options?: ErrorOptions) {
    super(key === undefined ? `${file}: ${problem}` : `${file}: ${key}: ${problem}`, options);
    this.file = file;
    this.problem = problem;
    this.key = key;
  }
}
