/** Where the time goes: the operators of a piece of work, how often each ran, how long, and on what shapes. */
import { performance } from "node:perf_hooks";
import { synchronize } from "./device.js";
import type { Device } from "./dtypes.js";
import { isThenable } from "./memory.js";
import { native, watchComputations, type Computation } from "./native.js";

export interface OperatorProfile {
  /**
   * As "aten::conv2d". Three are no operators but what native code does in one call: "blockedAttention" (see
   * explicitAttention), "backward" (Tensor.backward) and "gradients" (grad), whose operators are not seen one by one.
   */
  readonly name: string;
  readonly calls: number;
  /** Until libtorch returned: on a GPU, which goes on by itself, the time to queue the work; see ProfileOptions.waitFor. */
  readonly milliseconds: number;
  /** Its calls by the shapes they were on; none for "backward" and "gradients". */
  readonly shapes: readonly CallShapes[];
}

export interface CallShapes {
  /** One for each argument that was passed; null for what is no tensor. */
  readonly inputs: readonly (readonly number[] | null)[];
  /** null where the result is not one new tensor. */
  readonly output: readonly number[] | null;
  readonly calls: number;
}

export interface ProfileOptions {
  /**
   * Waits for this GPU after every operator, so that the times are those of the work and not of queueing it. The whole
   * takes longer, because nothing is queued ahead.
   */
  readonly waitFor?: Device;
}

/**
 * Runs `work` and returns its operators, those that took longest first. Costs nothing but while it runs. What other code
 * does meanwhile, while an async `work` waits, counts too. Profiles may be nested.
 */
export function profileOperators(work: () => Promise<unknown>, options?: ProfileOptions): Promise<OperatorProfile[]>;
export function profileOperators(work: () => unknown, options?: ProfileOptions): OperatorProfile[];
export function profileOperators(
  work: () => unknown,
  { waitFor = "cpu" }: ProfileOptions = {},
): OperatorProfile[] | Promise<OperatorProfile[]> {
  synchronize(waitFor);
  const entries = new Map<string, Entry>();
  const stop = watchComputations((computation, args, run) => {
    const { name, tensors, returnsTensor } = signatureOf(computation, args);
    const inputs = args.slice(computation === "call" ? 1 : 0).map((arg, i) => (tensors[i] ? shapeOf(arg) : null));
    const start = performance.now();
    const result = run();
    synchronize(waitFor);
    const milliseconds = performance.now() - start;
    const entry = entries.get(name) ?? new Entry(name);
    entries.set(name, entry);
    entry.count(milliseconds, tensors.length === 0 ? null : { inputs, output: returnsTensor ? shapeOf(result) : null });
    return result;
  });
  const finish = (): OperatorProfile[] => {
    stop();
    return [...entries.values()].map((entry) => entry.summary()).sort((a, b) => b.milliseconds - a.milliseconds);
  };
  const fail = (error: unknown): never => {
    stop();
    throw error;
  };
  let result: unknown;
  try {
    result = work();
  } catch (error) {
    fail(error);
  }
  return isThenable(result) ? (result as Promise<unknown>).then(finish, fail) : finish();
}

/** One operator's calls so far. */
class Entry {
  readonly #name: string;
  #calls = 0;
  #milliseconds = 0;
  readonly #shapes = new Map<string, CallShapes>();

  constructor(name: string) {
    this.#name = name;
  }

  count(milliseconds: number, shapes: Omit<CallShapes, "calls"> | null): void {
    this.#calls++;
    this.#milliseconds += milliseconds;
    if (shapes === null) return;
    const key = JSON.stringify(shapes);
    this.#shapes.set(key, { ...shapes, calls: (this.#shapes.get(key)?.calls ?? 0) + 1 });
  }

  summary(): OperatorProfile {
    return {
      name: this.#name,
      calls: this.#calls,
      milliseconds: this.#milliseconds,
      shapes: [...this.#shapes.values()],
    };
  }
}

interface Signature {
  readonly name: string;
  /** Which of the arguments are tensors. */
  readonly tensors: readonly boolean[];
  readonly returnsTensor: boolean;
}

const OTHERS: Readonly<Record<Exclude<Computation, "call">, Signature>> = {
  blockedAttention: { name: "blockedAttention", tensors: [true, true, true, true], returnsTensor: true },
  backward: { name: "backward", tensors: [], returnsTensor: false },
  gradients: { name: "gradients", tensors: [], returnsTensor: false },
};

/** By the operator's number. */
const signatures = new Map<number, Signature>();

function signatureOf(computation: Computation, args: readonly unknown[]): Signature {
  if (computation !== "call") return OTHERS[computation];
  const operator = args[0] as number;
  let signature = signatures.get(operator);
  if (signature === undefined) {
    const schema = native.schema(operator);
    const [returned] = schema.returns;
    signature = {
      name: schema.text.slice(0, schema.text.indexOf("(")),
      tensors: schema.arguments.map(({ type }) => type === "Tensor" || type === "Tensor?"),
      returnsTensor: schema.returns.length === 1 && returned?.type === "Tensor" && !returned.inPlace,
    };
    signatures.set(operator, signature);
  }
  return signature;
}

/** null for an optional tensor that was left out. */
function shapeOf(slot: unknown): readonly number[] | null {
  return typeof slot === "number" ? native.shape(slot) : null;
}
