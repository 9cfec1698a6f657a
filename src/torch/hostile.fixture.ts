/**
 * Everything wrong that JavaScript can do to a tensor, run by hostile.test.ts in a process of its own. Prints one line
 * for each attempt, as it happens: its name and the error that it met.
 */
import * as torch from "./index.js";
import { ones, op, Tensor, tensor, tidy, TorchError, zeros } from "./index.js";
import { native } from "./native.js";

/** What TypeScript would not allow: a value of this type goes anywhere. */
type Wrong = never;

const a = tensor([
  [1, 2],
  [3, 4],
]);
const image = ones([1, 4, 8, 8]);
const ids = tensor([0, 1], { dtype: "int64" });
const disposed = ones([2, 2]);
disposed.dispose();

function disposedIn(fn: (gone: Tensor) => unknown): () => unknown {
  return () => fn(disposed);
}

/** Arrays nested `depth` deep around one number. */
function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = [value];
  return value;
}

const raggedMillion = Array.from({ length: 1_000_000 }, (_, i) => (i === 999_999 ? "x" : i)) as Wrong;
const addTensor = op("aten::add.Tensor", ["Tensor", "Tensor", "Scalar"], "Tensor");

export const attempts: Record<string, () => unknown> = {
  "disposed operand": disposedIn((gone) => a.add(gone)),
  "disposed receiver": disposedIn((gone) => gone.add(a)),
  "disposed shape": disposedIn((gone) => gone.shape),
  "disposed dtype": disposedIn((gone) => gone.dtype),
  "disposed item": disposedIn((gone) => gone.item()),
  "disposed data": disposedIn((gone) => gone.toTypedArray()),
  "disposed backward": disposedIn((gone) => gone.backward()),
  "disposed in a list": disposedIn((gone) => torch.cat([a, gone])),
  "disposed grad": disposedIn((gone) => torch.grad(gone, [a])),
  "disposed requiresGrad_": disposedIn((gone) => gone.requiresGrad_()),
  "tensor used after its tidy": () => {
    let escaped: Tensor | undefined;
    tidy(() => {
      escaped = ones([2]);
    });
    return escaped!.add(1);
  },
  "string for a tensor": () => a.add("1" as Wrong),
  "undefined for a tensor": () => a.add(undefined as Wrong),
  "null for a tensor": () => a.matmul(null as Wrong),
  "object for a tensor": () => a.add({ shape: [2, 2] } as Wrong),
  "look-alike tensor": () => (Object.create(Tensor.prototype) as Tensor).add(1),
  "symbol for a number": () => a.add(Symbol("x") as Wrong),
  "function for a list": () => torch.cat((() => a) as Wrong),
  "empty list": () => torch.cat([]),
  "list with a hole": () => torch.cat([a, , a] as Wrong), // eslint-disable-line no-sparse-arrays
  "number in a list of tensors": () => torch.stack([a, 3 as Wrong]),
  "wrong shapes": () => a.add(ones([3])),
  "wrong shapes in matmul": () => a.matmul(ones([3, 3])),
  "dtype mix-up in matmul": () => a.matmul(ones([2, 2], { dtype: "int64" })),
  "dtype mix-up in linear": () => torch.linear(a, ones([2, 2], { dtype: "float64" })),
  "float ids": () => torch.embedding(a, tensor([0, 1])),
  "ids out of range": () => torch.embedding(a, tensor([0, 7], { dtype: "int64" })),
  "index out of range": () => a.indexSelect(0, tensor([5], { dtype: "int64" })),
  "gather out of range": () => a.gather(0, tensor([[9, 9]], { dtype: "int64" })),
  "classes out of range": () => torch.crossEntropy(a, tensor([0, 5], { dtype: "int64" })),
  "in place on another dtype": () =>
    ids
      .clone()
      .add_(0.5)
      .add_(tensor([0.5, 0.5])),
  "NaN size": () => zeros([NaN]),
  "infinite size": () => zeros([Infinity]),
  "fractional size": () => zeros([1.5]),
  "negative size": () => zeros([-1]),
  "string size": () => zeros(["2"] as Wrong),
  "missing shape": () => zeros(undefined as Wrong),
  "size beyond 2^53": () => zeros([2 ** 60]),
  "sizes whose product overflows": () => zeros([2 ** 40, 2 ** 40]),
  "more memory than there is": () => zeros([2 ** 42]),
  "more memory than there is, expanded": () =>
    ones([1])
      .expand([2 ** 40])
      .contiguous(),
  "more than an ArrayBuffer holds": () =>
    ones([1])
      .expand([2 ** 45])
      .toTypedArray(),
  "a million nested arrays": () => tensor(nested(1_000_000) as Wrong),
  "a million elements, one a string": () => tensor(raggedMillion),
  "ragged arrays": () => tensor([[1, 2], [3]]),
  "sparse array": () => tensor(new Array(10) as Wrong),
  "array that contains itself": () => {
    const endless: unknown[] = [];
    endless.push(endless);
    return tensor(endless as Wrong);
  },
  "array with a huge length": () => tensor(new Array(2 ** 32 - 1) as Wrong),
  "shape with a huge length": () => zeros(new Array(2 ** 28) as Wrong),
  "a million dimensions": () => ones([2]).reshape(new Array(1_000_000).fill(1) as number[]),
  "wrong length": () => tensor(new Float32Array(3), { shape: [2, 2] }),
  "wrong length, overflowing": () => tensor(new Float32Array(4), { shape: [2 ** 32, 2 ** 32] }),
  "negative shape for data": () => tensor(new Float32Array(4), { shape: [-2, -2] }),
  "detached buffer": () => {
    const data = new Float32Array(4);
    structuredClone(data.buffer, { transfer: [data.buffer] });
    return tensor(data, { shape: [4] });
  },
  "DataView for data": () => tensor(new DataView(new ArrayBuffer(8)) as Wrong),
  "unsupported typed array": () => tensor(new Uint32Array(1) as Wrong),
  "bytes of another length": () => torch.tensorFromBytes(new Uint8Array(3), [1], "float32"),
  "unknown dtype": () => zeros([2], { dtype: "float8" as Wrong }),
  "inherited name for a dtype": () => zeros([2], { dtype: "constructor" as Wrong }),
  "inherited name for bytes": () => torch.tensorFromBytes(new Uint8Array(4), [1], "toString" as Wrong),
  "unknown device": () => zeros([2], { device: "abacus" as Wrong }),
  "absent device": () => zeros([2], { device: "cuda:93" }),
  "unknown memory format": () => a.contiguous({ memoryFormat: "sideways" as Wrong }),
  "channels-last of a matrix": () => a.contiguous({ memoryFormat: "channelsLast" }),
  "dimension out of range": () => a.sum({ dim: 5 }),
  "dimension NaN": () => a.sum({ dim: NaN }),
  "dimension a string": () => torch.softmax(a, "0" as Wrong),
  "size of no dimension": () => a.size(9),
  "repeated permutation": () => a.permute([0, 0]),
  "impossible reshape": () => a.reshape([3]),
  "view of a transpose": () => a.transpose(0, 1).view([4]),
  "select out of range": () => a.select(0, 2),
  "narrow out of range": () => a.narrow(0, 1, 5),
  "step zero": () => a.slice(0, 0, 2, 0),
  "no chunks": () => a.chunk(0),
  "pieces of size -1": () => a.split(-1),
  "negative repeats": () => a.repeatInterleave(-1, 0),
  "expand smaller": () => a.expand([1, 1]),
  "arange with step zero": () => torch.arange(0, 5, 0),
  "arange to infinity": () => torch.arange(0, Infinity),
  "arange to NaN": () => torch.arange(0, NaN),
  "negative linspace": () => torch.linspace(0, 1, -3),
  "empty randint": () => torch.randint(5, 5, [2]),
  "negative randperm": () => torch.randperm(-1),
  "groups that do not divide": () => torch.groupNorm(image, 3),
  "no groups": () => torch.groupNorm(image, 0),
  "convolution with no groups": () => torch.conv2d(image, ones([4, 4, 3, 3]), null, { groups: 0 }),
  "convolution of other channels": () => torch.conv2d(image, ones([4, 3, 3, 3])),
  "convolution with stride 0": () => torch.conv2d(image, ones([4, 4, 3, 3]), null, { stride: 0 }),
  "convolution with negative padding": () => torch.conv2d(image, ones([4, 4, 3, 3]), null, { padding: -5 }),
  "convolution with one size of two": () =>
    torch.conv2d(image, ones([4, 4, 3, 3]), null, { stride: [1, 1, 1] as Wrong }),
  "convolution of a vector": () => torch.conv2d(ones([3]), ones([4, 4, 3, 3])),
  "layer norm of another shape": () => torch.layerNorm(a, [3]),
  "bias of another shape": () => torch.linear(a, ones([3, 2]), ones([7])),
  "pool with kernel 0": () => torch.avgPool2d(image, 0),
  "enlarge by 0": () => torch.interpolateNearest(image, { scale: 0 }),
  "enlarge by NaN": () => torch.interpolateNearest(image, { scale: NaN }),
  "enlarge to a negative size": () => torch.interpolateBicubic(image, [-1, 4], { antialias: true }),
  "pad below nothing": () => torch.pad(a, [-5, -5]),
  "pad in odd numbers": () => torch.pad(a, [1]),
  "attention of other widths": () =>
    torch.scaledDotProductAttention(ones([1, 1, 2, 3]), ones([1, 1, 2, 4]), ones([1, 1, 2, 4])),
  "unknown gelu": () => torch.gelu(a, { approximate: "roughly" as Wrong }),
  "unknown reduction": () => torch.mseLoss(a, a, { reduction: "most" as Wrong }),
  "argmax of nothing": () => zeros([0]).argmax(),
  "amax of nothing": () => zeros([0]).amax(),
  "item of four": () => a.item(),
  "equality with a string": () => a.equal("a" as Wrong),
  "integer to a negative power": () => ids.pow(-1),
  "gradient of integers": () => ids.clone().requiresGrad_(),
  "requiresGrad_ of a string": () => a.clone().requiresGrad_("yes" as Wrong),
  "backward without gradient": () => a.sum().backward(),
  "backward of a matrix": () => a.clone().requiresGrad_().mul(2).backward(),
  "backward twice": () => {
    const loss = a.clone().requiresGrad_().square().sum();
    loss.backward();
    loss.backward();
  },
  "backward with another shape": () =>
    a
      .clone()
      .requiresGrad_()
      .mul(2)
      .backward(ones([3])),
  "backward after an in-place change": () => {
    const x = a.clone().requiresGrad_();
    const y = x.exp();
    const loss = y.sum();
    y.add_(1);
    loss.backward();
  },
  "in place on a leaf": () => a.clone().requiresGrad_().add_(1),
  "gradient of the unused": () => torch.grad(a.clone().requiresGrad_().sum(), [ones([1]).requiresGrad_()]),
  "grad of nothing": () => torch.grad([], []),
  "grad with too few weights": () => {
    const x = a.clone().requiresGrad_();
    return torch.grad([x.sum(), x.mean()], [x], [null]);
  },
  "a tensor as its own grad": () => {
    const x = a.clone();
    x.grad = x;
  },
  "grad of another shape": () => {
    a.clone().grad = ones([3]);
  },
  "grad that is a string": () => {
    a.clone().grad = "grad" as Wrong;
  },
  "foreach of other lengths": () => torch.foreachAdd_([a.clone()], [a, a]),
  "foreach of a string": () => torch.foreachMul_("abc" as Wrong, 2),
  "promise in tidy": () => tidy(async () => Promise.resolve(ones([2]))),
  "promise in noGrad": () => torch.noGrad(async () => Promise.resolve(1)),
  "unknown operator": () => op("aten::no_such_thing", ["Tensor"], "Tensor")(a),
  "nonsense for an operator": () => op("::..::", ["Tensor"], "Tensor")(a),
  "number for an operator": () => op(42 as Wrong, ["Tensor"], "Tensor")(a),
  "too many arguments": () => Reflect.apply(addTensor, null, [a, a, 1, 2, 3, 4] as Wrong),
  "too few arguments": () => Reflect.apply(addTensor, null, [] as Wrong),
  "scalar that is a string": () => Reflect.apply(addTensor, null, [a, a, "1"] as Wrong),
  "fractional seed": () => new torch.Generator(1.5),
  "negative seed": () => new torch.Generator(-1),
  "generator of no device": () => new torch.Generator(0, "nowhere" as Wrong),
  "generator of an absent device": () => new torch.Generator(0, "cuda:99"),
  "state of another length": () => new torch.Generator(0).setState(new Uint8Array(3)),
  "state of noise": () =>
    new torch.Generator(0).setState(new Uint8Array(new torch.Generator(0).getState().length).fill(255)),
  "state that is a string": () => new torch.Generator(0).setState("state" as Wrong),
  "string for a generator": () => torch.randn([2], { generator: "mine" as Wrong }),
  "no threads": () => torch.setNumThreads(0),
  "half a thread": () => torch.setNumThreads(0.5),
  "file that is not there": () => torch.fromFile("/no/such/file", { size: 4 }),
  "file that is a folder": () => torch.fromFile("/", { size: 4 }),
  "file that is shorter": () => torch.fromFile("/proc/version", { size: 4 }),
  "path that is a number": () => torch.fromFile(7 as Wrong, { size: 4 }),
  // Past the library: slots, operators and arguments made up.
  "forged operator": () => native.call(1e9, 1, 2),
  "forged operator, negative": () => native.call(-1, 1, 2),
  "forged operator, a string": () => native.call("x" as Wrong),
  "forged slot": () => native.call(native.findOperator("aten::neg"), 123456789),
  "forged slot, negative": () => native.shape(-5),
  "forged slot, fractional": () => native.shape(4e9 + 0.5),
  "forged slot, a string": () => native.shape("0" as Wrong),
  "forged slot, nothing": () => native.shape(undefined as Wrong),
  "forged data": () => native.fromBuffer({} as Wrong, 6, [1]),
  "forged dtype": () => native.fromBuffer(new Uint8Array(4), 77, [1]),
  "forged dtype, quantised": () => native.fromBuffer(new Uint8Array(4), 12, [4]),
  "forged shape": () => native.fromBuffer(new Uint8Array(4), 6, "shape" as Wrong),
  "forged buffer": () => native.copyInto(0, new ArrayBuffer(1)),
  "forged generator": () => native.generatorState(999),
  "forged list": () => native.backward("all" as Wrong, 3 as Wrong, "yes" as Wrong),
  "forged release": () => native.release("everything" as Wrong),
  "getter that calls back and disposes": () => {
    const victim = ones([2, 2]);
    const shape = [4];
    Object.defineProperty(shape, 0, {
      get: () => {
        a.add(1).dispose();
        victim.dispose();
        return "x";
      },
    });
    return victim.reshape(shape);
  },
};

/** Attempts that are odd and yet allowed: they must not throw. */
export const allowed: Record<string, () => unknown> = {
  "dispose twice": () => disposed.dispose(),
  "release of slots that never were": () => native.release([1e9, -3, 2 ** 40]),
  "a million elements": () => tensor(Array.from({ length: 1_000_000 }, (_, i) => i)).dispose(),
  "division by zero": () => a.div(0),
  "NaN as a value": () => zeros([2]).fill_(NaN).add(Infinity),
  "empty tensors": () =>
    zeros([0, 3])
      .matmul(zeros([3, 0]))
      .toTypedArray(),
  "a long chain of operations": () =>
    tidy(() => {
      const x = ones([1]).requiresGrad_();
      let y: Tensor = x;
      for (let i = 0; i < 100_000; i++) y = y.add(1);
      y.sum().backward();
    }),
  "no message is empty": () => new TorchError("x"),
};

if (process.argv[2] === "run") {
  for (const [name, attempt] of [...Object.entries(attempts), ...Object.entries(allowed)]) {
    process.stdout.write(`${JSON.stringify({ start: name })}\n`);
    let outcome = "no error";
    let message = "";
    try {
      attempt();
    } catch (error) {
      outcome = error instanceof Error ? error.constructor.name : "not an Error";
      message = String((error as Error).message);
    }
    process.stdout.write(`${JSON.stringify({ name, outcome, message })}\n`);
  }
}
