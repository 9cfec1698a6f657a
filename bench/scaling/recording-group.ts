/** A group that notes each collective operation of another: when it began and ended, and its bytes. */
import type { Group } from "../../src/distributed/index.js";
import type { Tensor } from "../../src/torch/index.js";

export type OperationName = "broadcast" | "allGather" | "allReduce_" | "barrier" | "broadcastJson" | "allGatherJson";

/** One operation as one worker saw it. */
export interface Operation {
  readonly name: OperationName;
  /** Of the tensor, or of the JSON text, of this worker; for a broadcast, what every worker receives. */
  readonly bytes: number;
  /** Milliseconds since 1970: the workers of one machine have one clock. */
  readonly start: number;
  readonly end: number;
}

/** Milliseconds since 1970, to a microsecond. */
export const clock = (): number => performance.timeOrigin + performance.now();

/** Bytes of an element of what training sends: float32, and the bytes of files. */
const bytesOf = ({ numel, dtype }: Tensor): number => numel * (dtype === "uint8" ? 1 : 4);

const bytesOfJson = (value: unknown): number => Buffer.byteLength(JSON.stringify(value));

/** Does what `group` does. */
export class RecordingGroup implements Group {
  readonly #group: Group;
  #operations: Operation[] = [];

  constructor(group: Group) {
    this.#group = group;
  }

  /** The operations since the last call. */
  take(): Operation[] {
    const taken = this.#operations;
    this.#operations = [];
    return taken;
  }

  get rank(): number {
    return this.#group.rank;
  }
  get size(): number {
    return this.#group.size;
  }
  get localRank(): number {
    return this.#group.localRank;
  }
  get seconds(): number {
    return this.#group.seconds;
  }
  get signal(): AbortSignal {
    return this.#group.signal;
  }
  get lost(): Group["lost"] {
    return this.#group.lost;
  }

  broadcast(tensor: Tensor, root: number): Promise<void> {
    return this.#noted("broadcast", () => this.#group.broadcast(tensor, root), bytesOf(tensor));
  }
  allGather(tensor: Tensor): Promise<Tensor[]> {
    return this.#noted("allGather", () => this.#group.allGather(tensor), bytesOf(tensor));
  }
  allReduce_(tensor: Tensor): Promise<void> {
    return this.#noted("allReduce_", () => this.#group.allReduce_(tensor), bytesOf(tensor));
  }
  barrier(): Promise<void> {
    return this.#noted("barrier", () => this.#group.barrier(), 0);
  }
  broadcastJson<T>(value: T, root?: number): Promise<T> {
    return this.#noted("broadcastJson", () => this.#group.broadcastJson(value, root), bytesOfJson);
  }
  allGatherJson<T>(value: T): Promise<T[]> {
    return this.#noted("allGatherJson", () => this.#group.allGatherJson(value), bytesOfJson(value));
  }
  // What a stage of the benchmark does not use is not noted.
  gradientBuckets(...given: Parameters<Group["gradientBuckets"]>): ReturnType<Group["gradientBuckets"]> {
    return this.#group.gradientBuckets(...given);
  }
  send(...given: Parameters<Group["send"]>): Promise<void> {
    return this.#group.send(...given);
  }
  receive(...given: Parameters<Group["receive"]>): Promise<void> {
    return this.#group.receive(...given);
  }
  receiveAny(...given: Parameters<Group["receiveAny"]>): Promise<number> {
    return this.#group.receiveAny(...given);
  }
  part(size: number): Promise<Group> {
    return this.#group.part(size);
  }
  fail(reason: string): Promise<void> {
    return this.#group.fail(reason);
  }
  close(): Promise<void> {
    return this.#group.close();
  }

  async #noted<T>(name: OperationName, work: () => Promise<T>, bytes: number | ((result: T) => number)): Promise<T> {
    const start = clock();
    const result = await work();
    const end = clock();
    this.#operations.push({ name, bytes: typeof bytes === "number" ? bytes : bytes(result), start, end });
    return result;
  }
}
