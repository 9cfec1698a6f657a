/**
 * Adds up the gradients of several workers.
 *
 * Those of a LoRA are small: every worker gets all of them, and adds them in the order of ranks, so that each run of so many
 * workers has the same bits. Larger ones, of a whole denoiser, are summed by all-reduce, in buckets, while the backward pass
 * goes on; its order of addition is Gloo's or NCCL's, the same on every worker.
 *
 * A parameter that has no gradient on any worker has none afterwards, as in one process.
 */
import type { Group } from "../../distributed/index.js";
import { cat, inference, tensor, tidy, zerosLike, type GradientBuckets, type Tensor } from "../../torch/index.js";

/** In elements. Tests make both smaller. */
export const limits = {
  /** Up to so many, all gradients are gathered: those of a large LoRA. */
  gathered: 64e6,
  /** Of a bucket: 25 MiB of float32, as in PyTorch's DistributedDataParallel. */
  bucket: 25 * 2 ** 18,
};

/** The sum of all workers' gradients, for one optimiser step after the other. */
export class GradientSum {
  readonly #parameters: readonly Tensor[];
  readonly #workers: Group;
  readonly #buckets: Pick<GradientBuckets, "during" | "sum" | "dispose"> | undefined;

  constructor(parameters: Iterable<Tensor>, workers: Group) {
    this.#parameters = [...parameters];
    this.#workers = workers;
    const elements = this.#parameters.reduce((sum, { numel }) => sum + numel, 0);
    if (workers.size === 1 || elements <= limits.gathered) return;
    // Backward completes the gradients of what comes last in the forward pass first.
    this.#buckets = workers.gradientBuckets(this.#parameters.toReversed(), limits.bucket);
  }

  /** Runs a backward pass of a step. @param options `isLast`: whether it is this worker's last one before `sum` */
  during(backward: () => void, { isLast }: { readonly isLast: boolean }): void {
    if (this.#buckets === undefined) backward();
    else this.#buckets.during(backward, { isLast });
  }

  /** Replaces every parameter's gradient by the sum of all workers'. A missing one counts as 0. */
  async sum(): Promise<void> {
    if (this.#workers.size === 1) return;
    await (this.#buckets === undefined ? this.#gather() : this.#buckets.sum());
  }

  dispose(): void {
    this.#buckets?.dispose();
  }

  async #gather(): Promise<void> {
    const all = this.#parameters;
    const flat = inference(() => {
      const grads = all.map(({ grad }) => grad);
      // Their sum says whether any worker has a gradient.
      const counts = tensor(Float32Array.from(grads, (grad) => (grad === null ? 0 : 1))).to({ device: all[0]!.device });
      return cat([...grads.map((grad, i) => (grad ?? zerosLike(all[i]!)).flatten()), counts]);
    });
    const sum = await sumInOrder(flat, this.#workers);
    setGradients(all, sum);
    flat.dispose();
    sum.dispose();
  }
}

async function sumInOrder(flat: Tensor, workers: Group): Promise<Tensor> {
  const [first, ...others] = await workers.allGather(flat);
  for (const other of others) {
    inference(() => void first!.add_(other));
    other.dispose();
  }
  return first!;
}

function setGradients(parameters: readonly Tensor[], flat: Tensor): void {
  inference(() => {
    const total = flat.numel - parameters.length;
    const counts = flat.narrow(0, total, parameters.length).toArray();
    let start = 0;
    for (const [i, parameter] of parameters.entries()) {
      const { numel, shape } = parameter;
      const part = (): Tensor => flat.narrow(0, start, numel).view(shape);
      // In the parameter's memory format.
      tidy(() => void (parameter.grad = counts[i]! > 0 ? zerosLike(parameter).copy_(part()) : null));
      start += numel;
    }
  });
}
