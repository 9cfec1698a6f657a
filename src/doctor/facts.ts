/** What probe.ts says of the native code that it loaded. */

/** The dtypes that a model can have. */
export const dtypes = ["float32", "bfloat16", "float16"] as const;

/** libtorch as the addon loads it. */
export interface TorchFacts {
  readonly version: string;
  readonly threads: number;
  readonly devices: Readonly<Record<"cuda" | "mps", number>>;
  /** The dtypes that the first device of each kind computes in. */
  readonly dtypes: Readonly<Record<string, readonly string[]>>;
  /** The file of the BLAS that was loaded; null where it is a part of libtorch, or cannot be seen. */
  readonly blas: string | null;
  /** The kernels that OpenBLAS was told to take. */
  readonly openBlasCore: string | null;
  /** What a product of float32 matrices reaches. */
  readonly gigaflops: number;
}

/** The libraries of pictures, by name: what is wrong, or null. */
export type ImageFacts = Readonly<Record<"sharp" | "resvg", string | null>>;
