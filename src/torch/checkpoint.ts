/**
 * Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a segment of the forward pass keeps its inputs alone, and
 * is run again when backward comes to it.
 *
 * Departure from PyTorch's: libtorch's autograd never calls back. A segment's result is a leaf, at which libtorch's
 * backward ends; `Tensor.backward` then goes through the segments from the last to the first, runs each again with
 * recording, and hands the gradients of its inputs on. So no thread of libtorch ever has to enter JavaScript, whatever
 * the device. It follows that torch.grad does not see through a checkpoint.
 */
import { enableGrad, isGradEnabled, noGrad } from "./autograd.js";
import { keep, tidy } from "./memory.js";
import { native } from "./native.js";
import { detach } from "./operators.js";
import { expectSlot, op } from "./op.js";
import type { Tensor } from "./tensor.js";

const alias = op("aten::alias", ["Tensor"], "Tensor");

interface Segment {
  /** Aliases of what went in, with their history; null instead of `run` hands the gradient on as it is. */
  readonly inputs: readonly Tensor[];
  readonly run: ((...inputs: Tensor[]) => Tensor) | null;
  /** The leaf that the rest of the forward pass was given; a handle of the tape's own. */
  readonly output: Tensor;
}

/** Segments that backward has not come to, in the order they were recorded. */
const tape: Segment[] = [];

/**
 * Runs `fn` without recording, to be run again in backward. Where no gradient is recorded it just runs.
 *
 * @param fn of tensors only, with the same result at every call; it may use tensors that are not inputs, such as
 *   parameters, if they are leaves or need no gradient
 * @param inputs that carry gradient through the segment, or change between here and backward; those of `fn`
 */
export function checkpoint(fn: (...inputs: Tensor[]) => Tensor, inputs: readonly Tensor[]): Tensor {
  if (!isGradEnabled()) return tidy(() => fn(...inputs));
  return record(fn, inputs, () => noGrad(() => fn(...inputs)));
}

/**
 * The same tensor, whose gradients from several segments are summed before they go on: for what many segments share.
 */
export function relay(input: Tensor): Tensor {
  if (!isGradEnabled() || !input.requiresGrad) return input;
  return record(null, [input], () => input);
}

function record(run: Segment["run"], inputs: readonly Tensor[], make: () => Tensor): Tensor {
  return tidy(() => {
    const output = detach(make()).requiresGrad_();
    tape.push({ run, inputs: inputs.map((input) => keep(alias(input))), output: keep(output.to({})) });
    return output;
  });
}

/**
 * Runs libtorch's backward, then goes through the segments that it has reached. Called by Tensor.backward. After an error
 * nothing of what was reached is left for the next backward to come upon.
 *
 * @param retain keeps the segments for another backward through them
 */
export function backwardThroughCheckpoints(runBackward: () => void, retain: boolean): void {
  try {
    runBackward();
    drain(0, retain);
  } catch (error) {
    forget(({ output }) => tidy(() => output.grad !== null));
    throw error;
  }
}

/** Forgets all segments, as when a forward pass is given up before its backward. */
export function discardCheckpoints(): void {
  forget(() => true);
}

function forget(which: (segment: Segment) => boolean, from = 0): void {
  for (const segment of tape.splice(from)) {
    if (which(segment)) release(segment);
    else tape.push(segment);
  }
}

/** Segments from the last to number `from`. */
function drain(from: number, retain: boolean): void {
  for (let i = tape.length - 1; i >= from; i--) {
    const segment = tape[i]!;
    const gradient = segment.output.grad;
    if (gradient === null) continue; // of another graph, or of a branch that the loss does not see
    try {
      tidy(() => replay(segment, gradient));
    } finally {
      gradient.dispose();
    }
    if (retain) segment.output.grad = null;
    else tape.splice(i, 1).forEach(release);
  }
}

function replay({ inputs, run }: Segment, gradient: Tensor): void {
  if (run === null) return backward(inputs[0]!, gradient);
  const leaves = inputs.map((input) => (input.requiresGrad ? detach(input).requiresGrad_() : input));
  const before = tape.length;
  try {
    tidy(() => {
      const output = enableGrad(() => run(...leaves));
      if (output.requiresGrad)
        native.backward([expectSlot(output, "backward")], [expectSlot(gradient, "backward")], false);
    });
    drain(before, false);
  } finally {
    forget(() => true, before); // the segments inside that nothing came to
  }
  inputs.forEach((input, i) => {
    const own = leaves[i]!.grad;
    if (own !== null && leaves[i] !== input) backward(input, own);
  });
}

/** What lies between segments may be shared by several of them, so its graph stays until its tensors go. */
function backward(input: Tensor, gradient: Tensor): void {
  if (input.requiresGrad) native.backward([expectSlot(input, "backward")], [expectSlot(gradient, "backward")], true);
}

function release({ inputs, output }: Segment): void {
  output.grad = null;
  output.dispose();
  for (const input of inputs) input.dispose();
}
