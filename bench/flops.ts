/**
 * Floating-point operations of a piece of work, counted where they happen: at the calls into libtorch. Two for each
 * multiply-add of convolutions, linear layers and matrix products, including attention; elementwise work
 * (norms, activations, softmax) is not counted, as in PyTorch's FlopCounterMode.
 */
import { profileOperators, type CallShapes } from "../src/torch/index.js";

type Shape = readonly number[];
type Count = (output: Shape, inputs: CallShapes["inputs"]) => number;

const product = (numbers: Shape): number => numbers.reduce((all, n) => all * n, 1);

/** queries x keys, and scores x values */
const attention: Count = (_, [q, k]) => 4 * product(q!) * k!.at(-2)!;

/** Per operator: from the shapes of its result (in place: of its first argument) and of its arguments. */
const counts: Readonly<Record<string, Count>> = {
  "aten::conv2d": (out, [, weight]) => 2 * product(out) * product(weight!.slice(1)),
  "aten::linear": (out, [x]) => 2 * product(out) * x!.at(-1)!,
  "aten::matmul": (out, [a]) => 2 * product(out) * a!.at(-1)!,
  "aten::bmm": (out, [a]) => 2 * product(out) * a!.at(-1)!,
  "aten::addmm_": (out, [, a]) => 2 * product(out) * a!.at(-1)!,
  "aten::baddbmm": (out, [, a]) => 2 * product(out) * a!.at(-1)!,
  "aten::scaled_dot_product_attention": attention,
  blockedAttention: attention,
};

/** Runs `work` and returns its floating-point operations. The backward pass is not counted. */
export function countFlops(work: () => unknown): number {
  let flops = 0;
  for (const { name, shapes } of profileOperators(work)) {
    for (const { inputs, output, calls } of shapes)
      flops += calls * (counts[name]?.(output ?? inputs[0]!, inputs) ?? 0);
  }
  return flops;
}
