/**
 * A ledger of the bytes that a network's forward and backward pass hold, without any tensor: the models' code is written
 * down again in terms of sizes (unet.ts, vae.ts), with the same scopes of `tidy`, and libtorch's rules of what an operator
 * keeps for its backward pass. Good to some per cent; `test/memory.test.ts` compares it with what is measured.
 */

/** A tensor that is not there. */
export interface Sized {
  readonly elements: number;
  readonly bytes: number;
  /** Whether a gradient flows through it. */
  grad: boolean;
  /** The owner's handle, and the operators that keep it for backward. */
  held: number;
  /** Bytes of its gradient, while there is one. */
  gradient: number;
}

/** An operator of the recorded pass. */
interface Recorded {
  readonly output: Sized;
  readonly inputs: readonly Sized[];
  readonly kept: readonly Sized[];
  /** Bytes that its backward pass needs besides gradients. */
  readonly scratch: number;
}

/** A checkpointed piece of the recorded pass. */
interface Segment {
  readonly output: Sized;
  readonly inputs: readonly Sized[];
  readonly run: (...inputs: Sized[]) => Sized;
}

export interface ApplyOptions {
  readonly inputs: readonly Sized[];
  /** Whether it has parameters that are trained, so that its output has a gradient in any case. */
  readonly trains?: boolean;
  /** What its backward pass needs of the forward pass. */
  readonly keeps?: readonly Sized[];
  /** Whether that includes its own output. */
  readonly keepsOutput?: boolean;
  /** Bytes that it needs while it computes, and again in its backward pass. */
  readonly scratch?: number;
  /** Bytes that its backward pass alone needs. */
  readonly backwardScratch?: number;
  /** Default: the ledger's. */
  readonly itemBytes?: number;
}

export class Ledger {
  /** Bytes of an activation's element. */
  readonly itemBytes: number;
  #live = 0;
  #peak = 0;
  #recording: boolean;
  #scope: Sized[] = [];
  #graph: (Recorded | Segment)[] = [];

  constructor({ itemBytes, recording }: { itemBytes: number; recording: boolean }) {
    this.itemBytes = itemBytes;
    this.#recording = recording;
  }

  get peak(): number {
    return this.#peak;
  }

  get recording(): boolean {
    return this.#recording;
  }

  /** A new tensor, owned by the innermost scope. */
  make(elements: number, { itemBytes = this.itemBytes, grad = false } = {}): Sized {
    const made: Sized = { elements, bytes: elements * itemBytes, grad, held: 1, gradient: 0 };
    this.#add(made.bytes);
    this.#scope.push(made);
    return made;
  }

  /** The result of an operator, in memory of its own. */
  apply(elements: number, options: ApplyOptions): Sized {
    const {
      inputs,
      trains = false,
      keeps = [],
      keepsOutput = false,
      scratch = 0,
      backwardScratch = 0,
      itemBytes,
    } = options;
    const grad = this.#recording && (trains || inputs.some((input) => input.grad));
    const output = this.make(elements, { grad, ...(itemBytes !== undefined && { itemBytes }) });
    this.#within(scratch);
    if (grad) {
      const kept = keepsOutput ? [...keeps, output] : keeps;
      for (const one of kept) one.held += 1;
      this.#graph.push({
        output,
        inputs: inputs.filter((input) => input.grad),
        kept,
        scratch: scratch + backwardScratch,
      });
    }
    return output;
  }

  /** output += input, in place: the gradient of the sum is that of both. */
  add(output: Sized, input: Sized): Sized {
    if (!input.grad) return output;
    output.grad = true;
    const nothing: Sized = { elements: 0, bytes: 0, grad: true, held: 1, gradient: 0 };
    this.#graph.push({ output: nothing, inputs: [input], kept: [], scratch: 0 });
    return output;
  }

  /** Runs `work`, then lets go of all that it made but its results. */
  tidy<T extends Sized | readonly Sized[]>(work: () => T): T {
    const outer = this.#scope;
    const own: Sized[] = (this.#scope = []);
    const result = work();
    this.#scope = outer;
    const results = new Set<Sized>(Array.isArray(result) ? (result as readonly Sized[]) : [result as Sized]);
    for (const one of own) if (results.has(one)) outer.push(one);
    for (const one of own) if (!results.has(one)) this.dispose(one);
    return result;
  }

  /** Lets go of a tensor before its scope ends. */
  dispose(one: Sized): void {
    const at = this.#scope.indexOf(one);
    if (at >= 0) this.#scope.splice(at, 1);
    this.#release(one);
  }

  /** A piece of which only the inputs are kept, and which backward runs again. */
  checkpoint(run: Segment["run"], inputs: readonly Sized[]): Sized {
    if (!this.#recording) return this.tidy(() => run(...inputs));
    this.#recording = false;
    const output = this.tidy(() => run(...inputs));
    this.#recording = true;
    output.grad = true;
    for (const input of inputs) input.held += 1;
    this.#graph.push({ output, inputs, run });
    return output;
  }

  /** The backward pass of all that was recorded, from the gradient of `output`. */
  backward(output: Sized): void {
    const graph = this.#graph;
    // Between checkpointed pieces the graph stays until the end.
    const stays = graph.some((node) => "run" in node);
    this.#graph = [];
    this.#gain(output);
    for (const node of graph.toReversed()) {
      if ("run" in node) this.#again(node);
      else this.#propagate(node, !stays);
    }
    if (stays) for (const node of graph) if ("kept" in node) node.kept.forEach((one) => this.#release(one));
  }

  #propagate({ output, inputs, kept, scratch }: Recorded, frees: boolean): void {
    // The gradient of an input that has one already is added to it.
    const twice = inputs.filter((input) => input.gradient > 0);
    for (const input of inputs) if (input.gradient === 0) this.#gain(input);
    this.#within(scratch + sum(twice.map(({ bytes }) => bytes)));
    this.#lose(output);
    if (frees) for (const one of kept) this.#release(one);
  }

  #again({ output, inputs, run }: Segment): void {
    const leaves = inputs.map((input): Sized => ({ ...input, held: 1, gradient: 0 }));
    this.#recording = true;
    const again = this.tidy(() => run(...leaves));
    again.gradient = output.gradient;
    output.gradient = 0;
    const graph = this.#graph;
    this.#graph = [];
    for (const node of graph.toReversed()) if ("kept" in node) this.#propagate(node, true);
    this.#lose(again);
    this.dispose(again);
    inputs.forEach((input, i) => {
      const { gradient } = leaves[i]!;
      // The first input may have gradients of others to come; the text's go on to the weights at once.
      if (i === 0 && input.gradient === 0) input.gradient = gradient;
      else this.#add(-gradient);
      this.#release(input);
    });
  }

  #gain(one: Sized): void {
    one.gradient = one.bytes;
    this.#add(one.bytes);
  }

  #lose(one: Sized): void {
    this.#add(-one.gradient);
    one.gradient = 0;
  }

  #release(one: Sized): void {
    one.held -= 1;
    if (one.held === 0) this.#add(-one.bytes);
  }

  #within(bytes: number): void {
    this.#peak = Math.max(this.#peak, this.#live + bytes);
  }

  #add(bytes: number): void {
    this.#live += bytes;
    this.#peak = Math.max(this.#peak, this.#live);
  }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
