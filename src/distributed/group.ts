/**
 * A group of workers: processes that train one model together. Every operation but messages has to be called by all of
 * them, in the same order. A process alone is a group of size 1, for which they cost nothing and need no c10d.
 */
import {
  cat,
  distributedBackends,
  inference,
  keep,
  ProcessGroup,
  tensor,
  tidy,
  zeros,
  zerosLike,
  type GradientBuckets,
  type Tensor,
} from "../torch/index.js";
import { placeOf, type Environment, type Place } from "./environment.js";
import { WorkerError } from "./error.js";

/** Seconds that a group waits. */
export interface Patience {
  /** For a sign of life of a worker. Default 30. */
  readonly timeout?: number;
  /** For all workers to come. Default 300. */
  readonly joinTimeout?: number;
  /** Why this worker will not take part: the others are told as they come, and `openGroup` throws it. */
  readonly refusal?: string;
}

/** The workers, seen from one of them. Errors are WorkerErrors that name the rank that is missing. */
export interface Group {
  readonly rank: number;
  readonly size: number;
  /** Among the workers of this host. */
  readonly localRank: number;
  /** Copies the tensor of rank `root` into that of every other, in place. */
  broadcast(tensor: Tensor, root: number): Promise<void>;
  /** The tensor of every rank, in the order of ranks; the caller disposes of them. All have one shape and dtype. */
  allGather(tensor: Tensor): Promise<Tensor[]>;
  /** Replaces the tensor by the sum over all ranks: the same bits on each, but not those of a sum in the order of ranks. */
  allReduce_(tensor: Tensor): Promise<void>;
  /**
   * Buckets for the sum of the parameters' gradients, while backward goes on. All workers make them for the same parameters,
   * which are of one dtype and device, and call `sum` together.
   */
  gradientBuckets(
    parameters: readonly Tensor[],
    most: number,
  ): Pick<GradientBuckets, "sent" | "during" | "sum" | "dispose">;
  /** Waits until all have come here. */
  barrier(): Promise<void>;
  /** The value of rank `root`, on every rank. */
  broadcastJson<T>(value: T, root?: number): Promise<T>;
  /** The value of every rank, in the order of ranks. */
  allGatherJson<T>(value: T): Promise<T[]>;
  /** Sends a contiguous tensor on the CPU to another rank, which receives it by the same tag. Resolves when it is taken. */
  send(tensor: Tensor, to: number, tag: number): Promise<void>;
  /** Waits for such a tensor, in place: of one shape and dtype on both sides. Those of one tag keep their order. */
  receive(tensor: Tensor, from: number, tag: number): Promise<void>;
  /** The same from whoever sends first. @returns its rank */
  receiveAny(tensor: Tensor, tag: number): Promise<number>;
  /** The first `size` ranks as a group, to be called by each of them. It is lost when the whole group is. */
  part(size: number): Promise<Group>;
  /** Seconds that operations have taken so far, the wait for slower workers included. */
  readonly seconds: number;
  /** Aborts when the group cannot go on. `lost` says why. */
  readonly signal: AbortSignal;
  /** Why the group cannot go on; undefined as long as it can. */
  readonly lost: WorkerError | undefined;
  /** Tells all others why this worker stops, so that they stop as well. */
  fail(reason: string): Promise<void>;
  /** Takes leave. */
  close(): Promise<void>;
}

const NO_OTHER = "Expected another worker for a message but this process is alone";

/** A process alone. */
export class SoloGroup implements Group {
  readonly rank = 0;
  readonly size = 1;
  readonly localRank = 0;
  readonly seconds = 0;
  readonly signal: AbortSignal = new AbortController().signal;
  readonly lost = undefined;

  broadcast(): Promise<void> {
    return Promise.resolve();
  }
  allGather(tensor: Tensor): Promise<Tensor[]> {
    return Promise.resolve([tensor.clone()]);
  }
  allReduce_(): Promise<void> {
    return Promise.resolve();
  }
  gradientBuckets(): ReturnType<Group["gradientBuckets"]> {
    return { sent: 0, during: (backward) => backward(), sum: () => Promise.resolve(), dispose: () => undefined };
  }
  barrier(): Promise<void> {
    return Promise.resolve();
  }
  broadcastJson<T>(value: T): Promise<T> {
    return Promise.resolve(value);
  }
  allGatherJson<T>(value: T): Promise<T[]> {
    return Promise.resolve([value]);
  }
  send(): Promise<never> {
    return Promise.reject(new TypeError(NO_OTHER));
  }
  receive(): Promise<never> {
    return Promise.reject(new TypeError(NO_OTHER));
  }
  receiveAny(): Promise<never> {
    return Promise.reject(new TypeError(NO_OTHER));
  }
  part(): Promise<Group> {
    return Promise.resolve(this);
  }
  fail(): Promise<void> {
    return Promise.resolve();
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** How often the group looks whether it can go on, in milliseconds. */
const LOOK_MS = 200;

/** Workers over c10d. */
class C10dGroup implements Group {
  readonly rank: number;
  readonly size: number;
  readonly localRank: number;
  readonly #processes: ProcessGroup;
  readonly #controller = new AbortController();
  readonly #look: NodeJS.Timeout;
  #lost: WorkerError | undefined;
  #seconds = 0;

  constructor({ rank, size, localRank }: Pick<Place, "rank" | "size" | "localRank">, processes: ProcessGroup) {
    this.rank = rank;
    this.size = size;
    this.localRank = localRank;
    this.#processes = processes;
    this.#look = setInterval(() => this.#checkVerdict(), LOOK_MS).unref();
  }

  get seconds(): number {
    return this.#seconds;
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  get lost(): WorkerError | undefined {
    return this.#lost;
  }

  async broadcast(tensor: Tensor, root: number): Promise<void> {
    await this.#onHost(tensor, (host) => this.#processes.broadcast(host, root));
  }

  async allGather(tensor: Tensor): Promise<Tensor[]> {
    const { device } = tensor;
    const outputs = inference(() =>
      tidy(() => {
        const like = zerosLike(isDirect(tensor) ? tensor : tensor.to({ device: "cpu" })).contiguous();
        return Array.from({ length: this.size }, () => keep(like.clone()));
      }),
    );
    const own = inference(() => (isDirect(tensor) ? tensor : tensor.to({ device: "cpu" })).contiguous());
    try {
      await this.#guarded(this.#processes.allGather(outputs, own));
    } finally {
      if (own !== tensor) own.dispose();
    }
    if (isDirect(tensor)) return outputs;
    return outputs.map((output) => {
      const moved = inference(() => output.to({ device }));
      output.dispose();
      return moved;
    });
  }

  async allReduce_(tensor: Tensor): Promise<void> {
    await this.#onHost(tensor, (host) => this.#processes.allReduce_(host));
  }

  gradientBuckets(parameters: readonly Tensor[], most: number): ReturnType<Group["gradientBuckets"]> {
    const buckets = this.#processes.gradientBuckets(parameters, most);
    return {
      get sent() {
        return buckets.sent;
      },
      during: (backward, options) => buckets.during(backward, options),
      sum: () => this.#guarded(buckets.sum()),
      dispose: () => buckets.dispose(),
    };
  }

  async barrier(): Promise<void> {
    await this.#guarded(this.#processes.barrier());
  }

  send(tensor: Tensor, to: number, tag: number): Promise<void> {
    return this.#guarded(this.#processes.send(tensor, to, tag));
  }

  receive(tensor: Tensor, from: number, tag: number): Promise<void> {
    return this.#guarded(this.#processes.receive(tensor, from, tag));
  }

  receiveAny(tensor: Tensor, tag: number): Promise<number> {
    return this.#guarded(this.#processes.receiveAny(tensor, tag));
  }

  async part(size: number): Promise<Group> {
    if (size === 1) return new SoloGroup();
    const { rank, localRank } = this;
    return new C10dGroup({ rank, size, localRank }, await this.#guarded(this.#processes.openPart(size)));
  }

  async broadcastJson<T>(value: T, root = 0): Promise<T> {
    const bytes = this.rank === root ? encode(value) : new Uint8Array(0);
    const length = tensor(BigInt64Array.of(BigInt(bytes.length)));
    await this.broadcast(length, root);
    const size = length.item();
    length.dispose();
    const data = this.rank === root ? tensor(bytes) : zeros([size], { dtype: "uint8" });
    if (size > 0) await this.broadcast(data, root);
    return decode(data);
  }

  async allGatherJson<T>(value: T): Promise<T[]> {
    const bytes = encode(value);
    const own = tensor(BigInt64Array.of(BigInt(bytes.length)));
    const lengths = (await this.allGather(own)).map((length) => {
      const size = length.item();
      length.dispose();
      return size;
    });
    own.dispose();
    const most = Math.max(...lengths);
    const padded = tidy(() => cat([tensor(bytes), zeros([most - bytes.length], { dtype: "uint8" })]));
    const all = await this.allGather(padded);
    padded.dispose();
    return all.map((data, rank) => {
      const exact = tidy(() => data.narrow(0, 0, lengths[rank]!).clone());
      data.dispose();
      return decode(exact);
    });
  }

  async fail(reason: string): Promise<void> {
    // A store that is gone does not answer; the others notice by themselves then.
    const told = this.#processes.accuse(stopped(this.rank, reason));
    await Promise.race([told, new Promise((resolve) => setTimeout(resolve, FAREWELL_MS).unref())]);
  }

  async close(): Promise<void> {
    clearInterval(this.#look);
    await Promise.race([
      this.#processes.close(),
      new Promise((resolve) => setTimeout(resolve, 2 * FAREWELL_MS).unref()),
    ]);
  }

  /** Over a contiguous copy on the CPU where the backend needs one. */
  async #onHost(given: Tensor, operation: (host: Tensor) => Promise<void>): Promise<void> {
    if (isDirect(given) && isRowMajor(given)) return this.#guarded(operation(given));
    const host = inference(() => given.to({ device: "cpu" }).contiguous());
    try {
      await this.#guarded(operation(host));
      inference(() => void given.copy_(host));
    } finally {
      if (host !== given) host.dispose();
    }
  }

  async #guarded<T>(operation: Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await operation;
    } catch (error) {
      this.#checkVerdict();
      throw (this.#lost ??= new WorkerError((error as Error).message));
    } finally {
      this.#seconds += (performance.now() - start) / 1000;
    }
  }

  #checkVerdict(): void {
    const { verdict } = this.#processes;
    if (verdict === undefined || this.#lost !== undefined) return;
    this.#lost = new WorkerError(verdict);
    this.#controller.abort();
  }
}

const stopped = (rank: number, reason: string): string =>
  `Expected rank ${rank} to go on but it has stopped: ${reason}`;

/** How long a group that fails waits for a word to get through, in milliseconds. */
const FAREWELL_MS = 4000;

/** Whether the backend takes the tensor where it is. */
const isDirect = ({ device }: Tensor): boolean =>
  device === "cpu" || (device.startsWith("cuda") && distributedBackends().includes("nccl"));

/** Whether elements lie in memory in the order of the indices. */
function isRowMajor({ shape, strides }: Tensor): boolean {
  let expected = 1;
  return shape.every((_, i) => {
    const at = shape.length - 1 - i;
    const fits = shape[at] === 1 || strides[at] === expected;
    expected *= shape[at]!;
    return fits;
  });
}

/** A value as JSON in bytes. */
export const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));

/** The value of bytes; frees the tensor. */
export function decode<T>(data: Tensor): T {
  const bytes = data.toTypedArray() as Uint8Array;
  data.dispose();
  return JSON.parse(new TextDecoder().decode(bytes)) as T;
}

/**
 * Meets the other workers.
 *
 * @param place undefined for a process alone
 * @throws WorkerError naming the ranks that have not come, or the address that does not answer; the refusal of any of them
 */
export async function openGroup(
  place: Place | undefined,
  { timeout = 30, joinTimeout = 300, refusal = "" }: Patience = {},
  environment: Environment = process.env,
): Promise<Group> {
  if (place === undefined) return new SoloGroup();
  const { host, port, isServer, prefix, rank, size } = place;
  const network = environment["GLOO_SOCKET_IFNAME"] ?? "";
  try {
    const processes = await ProcessGroup.open({
      host,
      port,
      isServer,
      prefix,
      rank,
      size,
      interface: network,
      timeout: timeout * 1000,
      joinTimeout: joinTimeout * 1000,
      refusal: refusal && stopped(rank, refusal),
    });
    return new C10dGroup(place, processes);
  } catch (error) {
    if (error instanceof Error && error.name === "Error") throw new WorkerError(error.message, { cause: error });
    throw error;
  }
}

/** `openGroup` for the place that the environment names. */
export const groupOfEnvironment = (patience?: Patience): Promise<Group> => openGroup(placeOf(process.env), patience);
