/**
 * Processes that compute together, over libtorch's c10d: a TCPStore where they meet, and Gloo (NCCL on cards) between them.
 * Collective operations are promises; while one waits for other processes, JavaScript goes on.
 */
import { AddonError } from "./error.js";
import { expectSlot } from "./memory.js";
import { native } from "./native.js";
import type { Tensor } from "./tensor.js";

/** Where a process meets the others, and which one it is. */
export interface ProcessGroupOptions {
  /** Of the store. */
  readonly host: string;
  readonly port: number;
  /** Whether this process serves the store. */
  readonly isServer: boolean;
  /** Of all keys in the store. */
  readonly prefix: string;
  readonly rank: number;
  readonly size: number;
  /** Name of the network interface; "" for the one that leads to the store. */
  readonly interface: string;
  /** Milliseconds without a sign of life after which a process counts as dead. */
  readonly timeout: number;
  /** Milliseconds to wait for all processes to come. */
  readonly joinTimeout: number;
  /** A sentence that the others are told instead of meeting them, and that `open` throws; "" to meet them. */
  readonly refusal: string;
}

/** The backends that the addon was built with: none where Gloo's headers were missing. */
export const distributedBackends = (): readonly ("gloo" | "nccl")[] => native.distributedBackends();

/** A c10d group. Tensors must be contiguous; each operation has to be called by every process, in the same order. */
export class ProcessGroup {
  readonly #group: number;
  readonly #options: ProcessGroupOptions;

  private constructor(group: number, options: ProcessGroupOptions) {
    this.#group = group;
    this.#options = options;
  }

  /** Meets the other processes. @throws AddonError without a backend; Error, in a sentence, when one does not come */
  static async open(options: ProcessGroupOptions): Promise<ProcessGroup> {
    if (distributedBackends().length === 0) {
      throw new AddonError(
        "Expected an addon with Gloo for several processes but it was built without: Gloo's headers were missing " +
          "(Debian, Ubuntu: apt-get install libgloo-dev). Run then: npx b2 setup",
      );
    }
    return new ProcessGroup(await native.openGroup(options), options);
  }

  /**
   * The first `size` processes as a group of their own, which has to be opened by each of them. It can go on as long as the
   * whole group can.
   */
  async openPart(size: number): Promise<ProcessGroup> {
    const options = { ...this.#options, size };
    return new ProcessGroup(await native.openPart(this.#group, options), options);
  }

  /** Copies the tensor of process `root` into that of every other. */
  async broadcast(tensor: Tensor, root: number): Promise<void> {
    await native.groupBroadcast(this.#group, expectSlot(tensor, "broadcast"), root);
  }

  /** Copies the tensor of every process into the output of its rank; all have the same shape and dtype. */
  async allGather(outputs: readonly Tensor[], tensor: Tensor): Promise<void> {
    const slots = outputs.map((output) => expectSlot(output, "allGather"));
    await native.groupAllGather(this.#group, slots, expectSlot(tensor, "allGather"));
  }

  /** Replaces the tensor of every process by the sum of all. */
  async allReduce_(tensor: Tensor): Promise<void> {
    await native.groupAllReduce(this.#group, expectSlot(tensor, "allReduce_"));
  }

  /** Waits until every process has come here. */
  async barrier(): Promise<void> {
    await native.groupBarrier(this.#group);
  }

  /**
   * Buckets of at most so many elements for the sum of the parameters' gradients.
   *
   * @param parameters of one dtype and device, roughly in the order in which backward completes their gradients
   */
  gradientBuckets(parameters: readonly Tensor[], most: number): GradientBuckets {
    const slots = parameters.map((parameter) => expectSlot(parameter, "gradientBuckets"));
    return new GradientBuckets(native.openBuckets(this.#group, slots, most));
  }

  /** Sends a tensor on the CPU to another process, which receives it by the same tag. Resolves when it has been taken. */
  async send(tensor: Tensor, to: number, tag: number): Promise<void> {
    await native.groupSend(this.#group, expectSlot(tensor, "send"), to, tag);
  }

  /** Waits for a tensor of the same shape and dtype from another process. Messages of one tag keep their order. */
  async receive(tensor: Tensor, from: number, tag: number): Promise<void> {
    await native.groupReceive(this.#group, expectSlot(tensor, "receive"), from, tag);
  }

  /** Waits for a tensor from any process. @returns its rank */
  receiveAny(tensor: Tensor, tag: number): Promise<number> {
    return native.groupReceiveAny(this.#group, expectSlot(tensor, "receiveAny"), tag);
  }

  /** Why the group cannot go on, as a sentence that names the rank; undefined as long as it can. */
  get verdict(): string | undefined {
    return native.groupVerdict(this.#group);
  }

  /** Tells every process why the group cannot go on. The first such sentence counts. */
  async accuse(sentence: string): Promise<void> {
    await native.groupAccuse(this.#group, sentence);
  }

  /** Takes leave of the others. */
  async close(): Promise<void> {
    await native.closeGroup(this.#group);
  }
}

/**
 * Sums the gradients of all processes by all-reduce, bucket by bucket, while the backward pass goes on. For each sum every
 * process makes any number of backward passes, none included, and then waits; a missing gradient counts as 0.
 */
export class GradientBuckets {
  readonly #buckets: number;
  #sent = 0;

  constructor(buckets: number) {
    this.#buckets = buckets;
  }

  /** How many buckets have gone out since the last sum. */
  get sent(): number {
    return this.#sent;
  }

  /**
   * Runs a backward pass. In the last one of a sum a bucket goes out as soon as its gradients are complete, from the
   * second sum on: the first one shows which these are. Where a pass has failed, this one or others before it can be made
   * again; what has gone out is complete, and their gradients are left out of it.
   */
  during(backward: () => void, { isLast }: { readonly isLast: boolean }): void {
    if (!isLast && this.#sent === 0) return backward();
    native.bucketsBegin(this.#buckets, isLast);
    let isComplete = false;
    try {
      backward();
      isComplete = true;
    } finally {
      this.#sent = native.bucketsEnd(this.#buckets, isComplete);
    }
  }

  /**
   * Sends what has not gone out, waits for all, and gives the parameters their sums. One without a gradient anywhere gets
   * none. Parameters have no gradients meanwhile.
   */
  async sum(): Promise<void> {
    await native.bucketsWait(this.#buckets);
    native.bucketsTake(this.#buckets);
    this.#sent = 0;
  }

  /** Frees the buckets. */
  dispose(): void {
    native.closeBuckets(this.#buckets);
  }
}
