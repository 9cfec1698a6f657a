/**
 * Adds up the gradients of several workers.
 *
 * Those of a LoRA are small: every worker gets all of them, and adds them in the order of ranks, so that each run of so many
 * workers has the same bits. Larger ones, of a whole denoiser, are summed by all-reduce, in buckets; its order of addition
 * is Gloo's or NCCL's, the same on every worker.
 */
import type { Group } from "../../distributed/index.js";
import { cat, inference, tidy, zerosLike, type Tensor } from "../../torch/index.js";

/** Elements up to which all gradients are gathered: those of a large LoRA. */
const MOST_GATHERED = 64e6;

/** Elements of a bucket: 25 MiB of float32, as in PyTorch's DistributedDataParallel. */
const BUCKET = 25 * 2 ** 18;

/** Replaces every parameter's gradient by the sum of all workers'. A missing one counts as 0. */
export async function addGradients(parameters: Iterable<Tensor>, workers: Group): Promise<void> {
  const all = [...parameters];
  const gathered = all.reduce((sum, { numel }) => sum + numel, 0) <= MOST_GATHERED;
  for (const bucket of gathered ? [all] : bucketsOf(all)) {
    const flat = inference(() => tidy(() => cat(bucket.map(gradientOf).map((grad) => grad.flatten()))));
    const sum = gathered ? await sumInOrder(flat, workers) : flat;
    if (!gathered) await workers.allReduce_(flat);
    setGradients(bucket, sum);
    flat.dispose();
    if (sum !== flat) sum.dispose();
  }
}

const gradientOf = (parameter: Tensor): Tensor => parameter.grad ?? zerosLike(parameter);

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
    let start = 0;
    for (const parameter of parameters) {
      const { numel, shape } = parameter;
      // In the parameter's memory format.
      tidy(() => void (parameter.grad = zerosLike(parameter).copy_(flat.narrow(0, start, numel).view(shape))));
      start += numel;
    }
  });
}

function bucketsOf(parameters: readonly Tensor[]): Tensor[][] {
  const buckets: Tensor[][] = [[]];
  let size = 0;
  for (const parameter of parameters) {
    if (size > 0 && size + parameter.numel > BUCKET) {
      buckets.push([]);
      size = 0;
    }
    buckets.at(-1)!.push(parameter);
    size += parameter.numel;
  }
  return buckets;
}
