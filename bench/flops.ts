/**
 * Floating-point operations of a piece of work, counted where they happen: at the calls into libtorch. Two for each
 * multiply-add of convolutions, linear layers and matrix products, attention's own included; whatever is done once an
 * element (norms, activations, softmax) is left out, as PyTorch's FlopCounterMode does.
 */
import { native, type Slot } from "../src/torch/native.js";

type Count = (result: readonly number[], args: readonly (readonly number[] | undefined)[]) => number;

const product = (numbers: readonly number[]): number => numbers.reduce((all, n) => all * n, 1);

/** Per operator: from the shapes of its result and its arguments (undefined where one is no tensor). */
const counts: Readonly<Record<string, Count>> = {
  "aten::conv2d": (out, [, weight]) => 2 * product(out) * product(weight!.slice(1)),
  "aten::linear": (out, [x]) => 2 * product(out) * x!.at(-1)!,
  "aten::matmul": (out, [a]) => 2 * product(out) * a!.at(-1)!,
  "aten::bmm": (out, [a]) => 2 * product(out) * a!.at(-1)!,
  "aten::addmm_": (out, [, a]) => 2 * product(out) * a!.at(-1)!,
  "aten::baddbmm": (out, [, a]) => 2 * product(out) * a!.at(-1)!,
  // queries x keys, and scores x values
  "aten::scaled_dot_product_attention": (_, [q, k]) => 4 * product(q!) * k!.at(-2)!,
};

/** Runs `work` and returns its floating-point operations. What autograd does on its own is not seen. */
export function countFlops(work: () => unknown): number {
  const byOperator = new Map(Object.entries(counts).map(([name, count]) => [native.findOperator(name), count]));
  const call = native.call.bind(native);
  let flops = 0;
  native.call = (operator, ...args) => {
    const result = call(operator, ...args);
    const count = byOperator.get(operator);
    if (count !== undefined) {
      const shapes = args.map((arg) => (typeof arg === "number" ? shapeOf(arg) : undefined));
      flops += count(native.shape(result as Slot), shapes);
    }
    return result;
  };
  try {
    work();
  } finally {
    native.call = call;
  }
  return flops;
}

/** The arguments that are numbers but no tensors' slots come after those that are counted. */
function shapeOf(slot: Slot): readonly number[] | undefined {
  try {
    return native.shape(slot);
  } catch {
    return undefined;
  }
}
