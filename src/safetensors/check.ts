/** Compares the tensors of a file with the expected ones. All problems are collected and thrown at once. */
import { showProblems, showShape } from "../base/show.js";
import { allFinite, type DType, type Tensor } from "../torch/index.js";
import { SafetensorsError } from "./error.js";

/** A size that the file determines: dimensions of the same name must have the same size. */
export class Dimension {
  readonly name: string;
  /** Added to the size: `new Dimension("s").plus(1)` is one more than `new Dimension("s")`. */
  readonly more: number;

  constructor(name: string, more = 0) {
    this.name = name;
    this.more = more;
  }

  plus(more: number): Dimension {
    return new Dimension(this.name, this.more + more);
  }

  toString(): string {
    return this.more === 0 ? this.name : `${this.name} + ${this.more}`;
  }
}

export interface ExpectedTensor {
  /** Default: any floating point. */
  readonly dtype?: DType;
  readonly shape: readonly (number | Dimension)[];
}

/** A tensor, or a tensor's entry in a file's header. */
interface Described {
  readonly dtype: string;
  readonly shape: readonly number[];
}

const FLOATING_POINT = new Set("float64 float32 float16 bfloat16 F64 F32 F16 BF16".split(" "));

/** Problems that are shown: a large model has some thousand tensors, a damaged file may have millions. */
const MOST_PROBLEMS = 2000;

/** Collects the problems of the tensors of one file. */
export class TensorCheck {
  readonly #problems: string[] = [];
  readonly #sizes = new Map<string, number>();

  get problems(): readonly string[] {
    return this.#problems;
  }

  /** Checks that a tensor exists and has this dtype and shape. */
  fits<T extends Described>(name: string, expected: ExpectedTensor, received: T | undefined): received is T {
    const shape = showShape(expected.shape.map(String));
    const inWords = expected.dtype === undefined ? shape : `${expected.dtype} ${shape}`;
    if (received === undefined) return this.add(name, `Expected ${inWords} but received nothing`);
    if (expected.dtype === undefined && !FLOATING_POINT.has(received.dtype)) {
      return this.add(name, `Expected floating point for dtype but received ${received.dtype}`);
    }
    const isOfDtype = expected.dtype === undefined || expected.dtype === received.dtype;
    if (isOfDtype && this.#fitsShape(expected.shape, received.shape)) return true;
    const dtype = expected.dtype === undefined ? "" : `${received.dtype} `;
    return this.add(
      name,
      `Expected ${inWords}${this.#known(expected)} but received ${dtype}${showShape(received.shape)}`,
    );
  }

  finite(name: string, tensor: Tensor): boolean {
    return allFinite(tensor) || this.add(name, "Expected finite numbers but received NaN or infinity");
  }

  /** Reports a tensor that the file should not contain. */
  unexpected(name: string): void {
    this.add(name, "Expected no such key");
  }

  /** @returns false, for the caller to return */
  add(name: string, problem: string): false {
    this.#problems.push(`${name}: ${problem}`);
    return false;
  }

  /**
   * @param what the file should hold
   * @throws SafetensorsError with every problem
   */
  finish(file: string, what: string): void {
    const count = this.#problems.length;
    if (count === 0) return;
    throw new SafetensorsError(
      file,
      `Expected ${what} but received ${count} that ${count === 1 ? "differs" : "differ"}:\n  ${showProblems(this.#problems, "\n  ", MOST_PROBLEMS)}`,
    );
  }

  /** Named dimensions get their size from the first tensor that fits. */
  #fitsShape(expected: ExpectedTensor["shape"], received: readonly number[]): boolean {
    if (received.length !== expected.length) return false;
    const sizes = new Map(this.#sizes);
    const fits = received.every((size, i) => {
      const wanted = expected[i]!;
      if (typeof wanted === "number") return size === wanted;
      const known = sizes.get(wanted.name) ?? size - wanted.more;
      sizes.set(wanted.name, known);
      return size === known + wanted.more;
    });
    if (fits) for (const [name, size] of sizes) this.#sizes.set(name, size);
    return fits;
  }

  /** The sizes of the known dimensions, as text. */
  #known({ shape }: ExpectedTensor): string {
    const names = new Set(shape.filter((size) => size instanceof Dimension).map(({ name }) => name));
    const known = [...names].filter((name) => this.#sizes.has(name));
    return known.length === 0 ? "" : ` with ${known.map((name) => `${name} = ${this.#sizes.get(name)}`).join(", ")}`;
  }
}

/**
 * Checks that a file holds exactly these tensors, and that their values are finite.
 *
 * @param what the file should hold, for the error
 * @throws SafetensorsError naming every tensor that is missing, unexpected, of another dtype or shape, or not finite
 */
export function checkTensors(
  file: string,
  stored: ReadonlyMap<string, Tensor>,
  expected: ReadonlyMap<string, ExpectedTensor> | Readonly<Record<string, ExpectedTensor>>,
  what: string,
): void {
  const check = new TensorCheck();
  const wanted = new Map(isMap(expected) ? expected : Object.entries(expected));
  for (const [name, one] of wanted) {
    const tensor = stored.get(name);
    if (check.fits(name, one, tensor)) check.finite(name, tensor);
  }
  for (const name of stored.keys()) if (!wanted.has(name)) check.unexpected(name);
  check.finish(file, what);
}

function isMap(value: object): value is ReadonlyMap<string, ExpectedTensor> {
  return value instanceof Map;
}
