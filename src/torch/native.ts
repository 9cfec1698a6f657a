/**
 * The native addon: what it exports, in TypeScript, and how it is loaded.
 *
 * Importing this file loads nothing. `native` begins as a stub whose functions load the addon, put it in the stub's place
 * and go on there, so that nothing is asked at later calls.
 */
import { createRequire } from "node:module";
import { findAddon, howToBuild } from "./addon.js";
import { chosenThreads, prepareEnvironment } from "./environment.js";
import { AddonError, TorchError } from "./error.js";

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
  grad(tensor: Slot): Slot | null;
  setGrad(tensor: Slot, grad: Slot | null): void;
  release(tensors: readonly Slot[]): void;
  releaseOne(tensor: Slot): void;
  liveTensors(): number;
  nativeBytes(): number;
  /** The most that nativeBytes was since the last reset. */
  peakBytes(): number;
  resetPeakBytes(): void;
  /** Reports to V8 how many bytes tensors hold; see src/torch/memory.ts. */
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

  distributedBackends(): ("gloo" | "nccl")[];
  /** The following are there with a backend only; see src/torch/process-group.ts. */
  openGroup(options: object): Promise<number>;
  groupBroadcast(group: number, tensor: Slot, root: number): Promise<number>;
  groupAllGather(group: number, outputs: readonly Slot[], tensor: Slot): Promise<number>;
  groupAllReduce(group: number, tensor: Slot): Promise<number>;
  groupBarrier(group: number): Promise<number>;
  openPart(group: number, options: object): Promise<number>;
  groupSend(group: number, tensor: Slot, to: number, tag: number): Promise<number>;
  groupReceive(group: number, tensor: Slot, from: number, tag: number): Promise<number>;
  groupReceiveAny(group: number, tensor: Slot, tag: number): Promise<number>;
  groupVerdict(group: number): string | undefined;
  groupAccuse(group: number, sentence: string): Promise<number>;
  closeGroup(group: number): Promise<number>;
  openBuckets(group: number, parameters: readonly Slot[], most: number): number;
  bucketsBegin(buckets: number, isLast: boolean): void;
  bucketsEnd(buckets: number, isComplete: boolean): number;
  bucketsWait(buckets: number): Promise<number>;
  bucketsTake(buckets: number): void;
  closeBuckets(buckets: number): void;

  deviceCount(kind: string): number;
  synchronize(device: string): void;
  /** Bytes in tensors now, and the most since the last reset; undefined where nobody counts. */
  deviceBytes(device: string): [number, number] | undefined;
  resetPeakDeviceBytes(device: string): void;
}

let addon: Addon | undefined;

function load(): Addon {
  if (addon !== undefined) return addon;
  const file = findAddon();
  prepareEnvironment();
  try {
    addon = createRequire(import.meta.url)(file) as Addon;
  } catch (cause) {
    const problem = cause instanceof Error ? cause.message : String(cause);
    throw new AddonError(`The native addon does not load: ${problem.split("\n", 1)[0]}. ${howToBuild()}`, { cause });
  }
  addon.setErrorClass(TorchError);
  addon.setNumThreads(chosenThreads());
  return addon;
}

/** The addon; until its first use, the stub that loads it. */
export let native = new Proxy({} as Addon, {
  get:
    (_, name: keyof Addon) =>
    (...args: unknown[]): unknown => {
      native = watched(load());
      return (native[name] as (...args: unknown[]) => unknown)(...args);
    },
});

/** The addon's functions that compute: an operator's call, and what native/ does in one go. */
const COMPUTATIONS = ["call", "blockedAttention", "backward", "gradients"] as const;

export type Computation = (typeof COMPUTATIONS)[number];

/** Is given every computation, and makes it happen by calling `run`, whose result it returns. */
export type Watcher = (computation: Computation, args: readonly unknown[], run: () => unknown) => unknown;

let watchers: readonly Watcher[] = [];

/** The addon with all watchers, the latest outermost, around what computes. Without any, the addon itself. */
function watched(addon: Addon): Addon {
  if (watchers.length === 0) return addon;
  const around =
    (computation: Computation) =>
    (...args: unknown[]): unknown => {
      const compute = (): unknown => (addon[computation] as (...args: unknown[]) => unknown)(...args);
      return watchers.reduce<() => unknown>((run, watcher) => () => watcher(computation, args, run), compute)();
    };
  return { ...addon, ...Object.fromEntries(COMPUTATIONS.map((computation) => [computation, around(computation)])) };
}

/** Lets `watcher` see every computation until the function that is returned is called. Costs nothing before and after. */
export function watchComputations(watcher: Watcher): () => void {
  watchers = [...watchers, watcher];
  native = watched(load());
  return () => {
    watchers = watchers.filter((other) => other !== watcher);
    native = watched(load());
  };
}
