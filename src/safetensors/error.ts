import { InputError } from "../base/errors.js";

/** A safetensors file is damaged, or not of the expected kind. */
export class SafetensorsError extends InputError {
  override readonly name = "SafetensorsError";
  /** The file at fault. */
  readonly file: string;
  /** A sentence: "Expected X for Y but received Z". */
  readonly problem: string;
  /** The tensor at fault, if the problem concerns a single one. */
  readonly key: string | undefined;

  constructor(file: string, problem: string, key?: string, options?: ErrorOptions) {
    super(key === undefined ? `${file}: ${problem}` : `${file}: ${key}: ${problem}`, options);
    this.file = file;
    this.problem = problem;
    this.key = key;
  }
}
