/**
 * Loads the native addon that scripts/install.mjs built, and says in TypeScript what it exports.
 *
 * There is one build per libtorch (build/<key>/), so that LIBTORCH in the environment chooses at run time, without a
 * rebuild; without it, the one that was installed last is taken.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, realpathSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { TorchError } from "./error.js";
import { chooseOpenBlasCore } from "./openblas.js";

/** A tensor or generator as native code knows it: the index of a slot. */
export type Slot = number;

export interface OperatorSchema {
  /** The whole schema as libtorch prints it. */
  readonly text: string;
  readonly arguments: readonly { readonly name: string; readonly type: string; readonly hasDefault: boolean }[];
  readonly returns: readonly { readonly type: string; readonly inPlace: boolean }[];
}

export interface Addon {
  setErrorClass(errorClass: typeof TorchError): void;
  /** The number of an operator, or -1 where this libtorch has none of that name. */
  findOperator(fullName: string): number;
  schema(operator: number): OperatorSchema;
  /** Calls operator number `operator` boxed; slots for tensors and generators, everything else as it is. */
  call(operator: number, ...args: unknown[]): unknown;

  fromBuffer(data: ArrayBufferView, scalarType: number, shape: readonly number[]): Slot;
  byteLength(tensor: Slot): number;
  copyInto(tensor: Slot, buffer: ArrayBuffer): void;
  item(tensor: Slot): number | boolean;
  shape(tensor: Slot): number[];
  strides(tensor: Slot): number[];
  scalarType(tensor: Slot): number;
  device(tensor: Slot): string;
  requiresGrad(tensor: Slot): boolean;
  setRequiresGrad(tensor: Slot, on: boolean): void;
  isLeaf(tensor: Slot): boolean;
  grad(tensor: Slot): Slot | null;
  setGrad(tensor: Slot, grad: Slot | null): void;
  release(tensors: readonly Slot[]): void;
  releaseOne(tensor: Slot): void;
  liveTensors(): number;
  nativeBytes(): number;
  /** The most that nativeBytes was since the last reset. */
  peakBytes(): number;
  resetPeakBytes(): void;
  /** Tells V8 how many bytes tensors hold; see src/torch/memory.ts. */
  reportBytes(): void;
  /** V8's own count of what is held outside its heap. */
  externalBytes(): number;

  gradEnabled(): boolean;
  setGradEnabled(on: boolean): void;
  backward(outputs: readonly Slot[], gradients: readonly (Slot | null)[], retainGraph: boolean): void;
  gradients(
    outputs: readonly Slot[],
    inputs: readonly Slot[],
    gradOutputs: readonly (Slot | null)[],
    retainGraph: boolean,
    createGraph: boolean,
    allowUnused: boolean,
  ): (Slot | null)[];

  /** See explicitAttention. */
  blockedAttention(
    q: Slot,
    k: Slot,
    v: Slot,
    mask: Slot | null,
    causal: boolean,
    scale: number,
    maxScores: number,
  ): Slot;

  newGenerator(device: string, seed: number | bigint): Slot;
  seedGenerator(generator: Slot, seed: number | bigint): void;
  generatorState(generator: Slot): ArrayBuffer;
  setGeneratorState(generator: Slot, state: Uint8Array): void;
  releaseGenerator(generator: Slot): void;
  seedAll(seed: number | bigint): void;

  setNumThreads(threads: number): void;
  numThreads(): number;
  version(): string;
  deviceCount(kind: string): number;
}

/** The package's root: the nearest folder above with a package.json. */
function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, "package.json"))) {
    const above = dirname(folder);
    if (above === folder) throw new TorchError("Expected a package.json above the torch module but found none");
    folder = above;
  }
  return folder;
}

/** The name of the build for a libtorch folder; scripts/libtorch/build.mjs names it in the same way. */
function buildKey(libtorch: string): string {
  const root = existsSync(libtorch) ? realpathSync(libtorch) : libtorch;
  return createHash("sha256").update(root).digest("hex").slice(0, 12);
}

function load(): Addon {
  const build = join(packageRoot(), "build");
  const chosen = process.env["LIBTORCH"];
  let key: string;
  if (chosen) key = buildKey(chosen);
  else {
    const current = join(build, "current.json");
    if (!existsSync(current)) {
      throw new TorchError("Expected the native addon to be built but it is not: run `npm run install` first");
    }
    key = (JSON.parse(readFileSync(current, "utf8")) as { key: string }).key;
  }
  const file = join(build, key, "torch.node");
  if (!existsSync(file)) {
    throw new TorchError(
      `Expected a build of the native addon for ${chosen ?? key} but there is none: run ` +
        (chosen ? `\`LIBTORCH=${chosen} npm run install\` first` : "`npm run install` first"),
    );
  }
  // OpenMP reads this as it loads. By default its threads spin for milliseconds while they wait for each other, and once
  // anything else wants a core they spin away the time of the thread they wait for: 12 times slower (docs/log.md).
  if (process.env["OMP_WAIT_POLICY"] === undefined) process.env["GOMP_SPINCOUNT"] ??= "10000";
  chooseOpenBlasCore();
  // NVIDIA's libraries read this as they load. By default convolutions of float32 keep 10 of its 23 bits on a card (TF32);
  // what is asked for in float32, log-probs that agree from batch to batch, is not to be had so.
  process.env["NVIDIA_TF32_OVERRIDE"] ??= "0";
  const addon = createRequire(import.meta.url)(file) as Addon;
  addon.setErrorClass(TorchError);
  // Some machines come up with one OpenMP thread: say the number.
  const threads = Number(process.env["B2_THREADS"] ?? process.env["OMP_NUM_THREADS"] ?? availableParallelism());
  addon.setNumThreads(Number.isInteger(threads) && threads > 0 ? threads : availableParallelism());
  return addon;
}

export const native: Addon = load();
