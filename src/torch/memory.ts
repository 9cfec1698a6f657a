/**
 * Who owns a tensor: TensorHandle (the JavaScript side of one native slot), and `tidy`, which owns the temporaries.
 *
 * Inside `tidy` a new tensor costs one array push and is released with its scope. Outside, garbage collection is the
 * safety net: new tensors wait in a list and only those that live long are registered with a FinalizationRegistry
 * (registering costs more than a small operator, and most tensors are disposed of before it would be worth it).
 *
 * V8 schedules garbage collection by the external memory that we report. We report outside of `tidy` only, where a
 * collection can free something: reporting the activations of a training step caused several full collections a step, on
 * the cores that the step computes on (docs/log.md).
 */
import { inWords, TorchError } from "./error.js";
import { native, type Slot } from "./native.js";

const DISPOSED = -1;

/** What slotOf answers for a value that is no tensor. A disposed one answers -1. */
export const NOT_A_TENSOR = -2;

/** The innermost tidy's tensors; undefined outside of any. */
let scope: TensorHandle[] | undefined;

const UNOWNED_LIMIT = 1024;
let unowned: TensorHandle[] = [];
/** Slots whose tensors the registry watches. */
const registered = new Set<Slot>();
const registry = new FinalizationRegistry<Slot>((slot) => {
  registered.delete(slot);
  releaseOne(slot);
});

function releaseOne(slot: Slot): void {
  native.releaseOne(slot);
  if (scope === undefined) native.reportBytes();
}

/** The base of Tensor: owns one slot of the native table. Its static methods are not for use outside src/torch. */
export class TensorHandle {
  #slot: Slot;
  /** Set by keep(): the scope that made the tensor does not release it. */
  #kept = false;

  constructor(slot: Slot) {
    this.#slot = slot;
    own(this);
  }

  /** Whether dispose() was called, by hand or by the end of a tidy. */
  get disposed(): boolean {
    return this.#slot === DISPOSED;
  }

  /** Frees the memory now. Doing it twice is harmless. */
  dispose(): void {
    const slot = this.#slot;
    if (slot === DISPOSED) return;
    this.#slot = DISPOSED;
    if (registered.delete(slot)) registry.unregister(this);
    releaseOne(slot);
  }

  /** The slot of a live tensor, -1 for a disposed one, NOT_A_TENSOR for anything else. */
  static slotOf(value: unknown): Slot {
    return typeof value === "object" && value !== null && #slot in value ? value.#slot : NOT_A_TENSOR;
  }

  /** Takes the slot out of a handle, which counts as disposed from now on. */
  static take(handle: TensorHandle): Slot {
    const slot = handle.#slot;
    handle.#slot = DISPOSED;
    return slot;
  }

  /** Gives a handle the slot of another, which counts as disposed from now on; what the handle had is released. */
  static replace(handle: TensorHandle, other: TensorHandle): void {
    const [old, next] = [handle.#slot, TensorHandle.take(other)];
    if (registered.delete(next)) registry.unregister(other);
    const isWatched = registered.delete(old);
    if (isWatched) registry.unregister(handle);
    handle.#slot = next;
    if (isWatched) leaveToCollector(handle);
    releaseOne(old);
  }

  static isKept(handle: TensorHandle): boolean {
    return handle.#kept;
  }

  static keep(handle: TensorHandle): void {
    handle.#kept = true;
  }
}

/** The slot of a live tensor. @throws TorchError naming the function otherwise */
export function expectSlot(value: unknown, where: string): Slot {
  const slot = TensorHandle.slotOf(value);
  if (slot >= 0) return slot;
  const received = slot === NOT_A_TENSOR ? inWords(value) : "a disposed Tensor";
  throw new TorchError(`Expected a Tensor for ${where} but received ${received}`, where);
}

/** Registers the tensors that were made outside of any tidy and are still alive, to be released when collected. */
function registerUnowned(): void {
  const handles = unowned;
  unowned = [];
  for (const handle of handles) {
    const slot = TensorHandle.slotOf(handle);
    if (slot === DISPOSED || registered.has(slot)) continue;
    registered.add(slot);
    registry.register(handle, slot, handle);
  }
  native.reportBytes();
}

function own(handle: TensorHandle): void {
  if (scope !== undefined) scope.push(handle);
  else leaveToCollector(handle);
}

function leaveToCollector(handle: TensorHandle): void {
  if (unowned.length === 0) setImmediate(registerUnowned);
  unowned.push(handle);
  if (unowned.length >= UNOWNED_LIMIT) registerUnowned();
}

/** Calls `visit` with every tensor in a value: itself, or inside arrays, maps and plain objects, nested. */
function eachTensor(value: unknown, visit: (handle: TensorHandle) => void, seen = new Set<object>()): void {
  if (typeof value !== "object" || value === null) return;
  if (value instanceof TensorHandle) return visit(value);
  if (ArrayBuffer.isView(value) || seen.has(value)) return;
  seen.add(value);
  if (Array.isArray(value)) {
    // A list of a million numbers is a common result: look at objects only.
    for (const item of value) if (typeof item === "object") eachTensor(item, visit, seen);
  } else if (value instanceof Map) {
    for (const item of value.values()) eachTensor(item, visit, seen);
  } else {
    const prototype: unknown = Object.getPrototypeOf(value);
    if (prototype !== Object.prototype && prototype !== null) return;
    for (const item of Object.values(value)) eachTensor(item, visit, seen);
  }
}

/** Whether a value is a promise, or would be taken for one by `await`. */
export function isThenable(value: unknown): boolean {
  return typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";
}

/**
 * Runs `fn` and disposes every tensor it made, except those in its result (a tensor, or tensors nested in arrays, maps
 * and plain objects) and those given to `keep`. Results belong to the surrounding tidy, if there is one.
 *
 * @throws TorchError if `fn` returns a promise: a scope that outlives its call would own other code's tensors
 */
export function tidy<T>(fn: () => T): T {
  const outer = scope;
  const mine: TensorHandle[] = [];
  scope = mine;
  let result: T | undefined;
  let refused = false;
  try {
    result = fn();
    refused = isThenable(result);
    if (refused) {
      // Nobody will await it: the error below is what the caller learns.
      void (result as PromiseLike<unknown>).then(undefined, () => undefined);
      throw new TorchError("Expected a synchronous function for tidy but received one that returns a promise", "tidy");
    }
    return result;
  } finally {
    scope = outer;
    const survivors = new Set<TensorHandle>();
    if (!refused) eachTensor(result, (handle) => survivors.add(handle));
    release(mine, survivors);
  }
}

/** Disposes a scope's tensors in one native call; survivors and kept ones move to the scope around. */
function release(handles: readonly TensorHandle[], survivors: ReadonlySet<TensorHandle>): void {
  const slots: Slot[] = [];
  for (const handle of handles) {
    if (handle.disposed) continue;
    if (TensorHandle.isKept(handle)) leaveToCollector(handle);
    else if (survivors.has(handle)) own(handle);
    else slots.push(TensorHandle.take(handle));
  }
  if (slots.length > 0) native.release(slots);
  if (scope === undefined) native.reportBytes();
}

/** Lets a tensor outlive the tidy it was made in. Returns it. */
export function keep<T extends TensorHandle>(tensor: T): T {
  TensorHandle.keep(tensor);
  return tensor;
}

/** How many tensors are held by JavaScript right now. Constant from step to step in a program that does not leak. */
export function liveTensors(): number {
  return native.liveTensors();
}

/** Bytes that tensors hold in main memory right now, including those that only autograd holds. */
export function nativeBytes(): number {
  return native.nativeBytes();
}

/** The largest value of nativeBytes during `work`, including what was there before. */
export function peakNativeBytes(work: () => unknown): number {
  native.resetPeakBytes();
  work();
  return native.peakBytes();
}
