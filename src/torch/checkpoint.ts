/**
 * Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): a segment of the forward pass keeps its inputs alone, and
 * is run again when backward comes to it.
 *
 * Departure from PyTorch's: libtorch's autograd never calls back. A segment's result is a leaf, at which libtorch's
 * backward ends; `Tensor.backward` then goes through the segments from the last to the first (tape.ts), runs each again
 * with recording, and propagates the gradients of its inputs. So no thread of libtorch ever has to enter JavaScript,
 * whatever the device. It follows that torch.grad does not see through a checkpoint.
 */
import { enableGrad, isGradEnabled, noGrad } from "./grad-mode.js";
import { expectSlot, keep, tidy } from "./memory.js";
import { native } from "./native.js";
import { recordSegment, withOwnSegments, type Segment } from "./tape.js";
import { aten, type Tensor } from "./tensor.js";

type Run = (...inputs: Tensor[]) => Tensor;

/**
 * Runs `fn` without recording, to be run again in backward. Where no gradient is recorded it just runs.
 *
 * @param fn of tensors only, with the same result at every call; it may use tensors that are not inputs, such as
 *   parameters, if they are leaves or need no gradient
 * @param inputs that carry gradient through the segment, or change between here and backward; those of `fn`
 */
export function checkpoint(fn: Run, inputs: readonly Tensor[]): Tensor {
  if (!isGradEnabled()) return tidy(() => fn(...inputs));
  return record(fn, inputs, () => noGrad(() => fn(...inputs)));
}

/**
 * Identity in forward. In backward, sums the gradients of all segments that use `input` and then propagates once: for
 * what many segments share.
 */
export function relay(input: Tensor): Tensor {
  if (!isGradEnabled() || !input.requiresGrad) return input;
  return record(null, [input], () => input);
}

function record(run: Run | null, inputs: readonly Tensor[], make: () => Tensor): Tensor {
  return tidy(() => {
    const output = aten.detach(make()).requiresGrad_();
    recordSegment(
      new CheckpointedSegment(
        run,
        inputs.map((input) => keep(aten.alias(input))),
        keep(output.to({})),
      ),
    );
    return output;
  });
}

class CheckpointedSegment implements Segment {
  /** null for a relay, which propagates the gradient as it is. */
  readonly #run: Run | null;
  /** Aliases of the inputs, with their history. */
  readonly #inputs: readonly Tensor[];
  /** The leaf that the rest of the forward pass was given, in a handle of our own. */
  readonly #output: Tensor;

  constructor(run: Run | null, inputs: readonly Tensor[], output: Tensor) {
    this.#run = run;
    this.#inputs = inputs;
    this.#output = output;
  }

  reached(): boolean {
    return tidy(() => this.#output.grad !== null);
  }

  backward(): void {
    const gradient = this.#output.grad!;
    try {
      tidy(() => this.#propagate(gradient));
    } finally {
      gradient.dispose();
    }
    this.#output.grad = null;
  }

  #propagate(gradient: Tensor): void {
    const [run, inputs] = [this.#run, this.#inputs];
    if (run === null) return propagate(inputs[0]!, gradient);
    const leaves = inputs.map((input) => (input.requiresGrad ? aten.detach(input).requiresGrad_() : input));
    withOwnSegments(() =>
      tidy(() => {
        const output = enableGrad(() => run(...leaves));
        if (output.requiresGrad) backward(output, gradient, false);
      }),
    );
    inputs.forEach((input, i) => {
      const own = leaves[i]!.grad;
      if (own !== null && leaves[i] !== input) propagate(input, own);
    });
  }

  release(): void {
    this.#output.grad = null;
    this.#output.dispose();
    for (const input of this.#inputs) input.dispose();
  }
}

/** What lies between segments may be shared by several of them, so its graph stays until its tensors go. */
function propagate(input: Tensor, gradient: Tensor): void {
  if (input.requiresGrad) backward(input, gradient, true);
}

function backward(output: Tensor, gradient: Tensor, retainGraph: boolean): void {
  native.backward([expectSlot(output, "backward")], [expectSlot(gradient, "backward")], retainGraph);
}
