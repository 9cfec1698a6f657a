import assert from "node:assert/strict";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.js";
import * as torch from "./index.js";
import { arange, ones, tensor, tidy, TorchError, yieldToEventLoop, zeros, type DType, type Tensor } from "./index.js";

const values = (x: Tensor): number[] => x.toArray();

test("from and to JavaScript: nested arrays, typed arrays, every dtype", () => {
  const nested = [
    [
      [1, 2],
      [3, 4],
    ],
    [
      [5, 6],
      [7, 8],
    ],
  ];
  assert.deepEqual(tensor(nested).toNestedArray(), nested);
  assert.deepEqual(tensor(nested).shape, [2, 2, 2]);
  assert.equal(tensor(3).toNestedArray(), 3);
  const arrays = [
    [new Float32Array([1, -2]), "float32"],
    [new Float64Array([1, -2]), "float64"],
    [new BigInt64Array([1n, -2n]), "int64"],
    [new Int32Array([1, -2]), "int32"],
    [new Int16Array([1, -2]), "int16"],
    [new Int8Array([1, -2]), "int8"],
    [new Uint8Array([1, 254]), "uint8"],
  ] as const;
  for (const [array, dtype] of arrays) {
    const x = tensor(array);
    assert.equal(x.dtype, dtype);
    assert.deepEqual(x.toTypedArray(), array);
  }
  for (const dtype of ["float16", "bfloat16"] as const) {
    const x = tensor([1, -2.5], { dtype });
    assert.deepEqual(x.toTypedArray(), new Float32Array([1, -2.5]));
    assert.deepEqual(torch.tensorFromBytes(x.toBytes(), [2], dtype).toTypedArray(), new Float32Array([1, -2.5]));
  }
  assert.deepEqual(tensor([true, false]).to({ dtype: "bool" }).toTypedArray(), new Uint8Array([1, 0]));
  assert.deepEqual(values(torch.tensorFromBytes(new Uint8Array([0, 1, 2]), [3], "bool")), [0, 1, 1]);
});

test("data is copied: later writes to the array do not reach the tensor", () => {
  const data = new Float32Array([1, 2, 3, 4]);
  const x = tensor(data.subarray(1), { shape: [3, 1] });
  data.fill(9);
  assert.deepEqual(x.toNestedArray(), [[2], [3], [4]]);
});

test("transposed and expanded tensors come out row-major", () => {
  const x = arange(0, 6).reshape([2, 3]);
  assert.deepEqual(x.transpose(0, 1).toNestedArray(), [
    [0, 3],
    [1, 4],
    [2, 5],
  ]);
  assert.deepEqual(values(tensor([[1], [2]]).expand([2, 2])), [1, 1, 2, 2]);
});

test("whole numbers keep integer tensors integer, fractions do not", () => {
  const ids = tensor([1, 2], { dtype: "int64" });
  assert.equal(ids.add(2).dtype, "int64");
  assert.equal(ids.mul(0.5).dtype, "float32");
  assert.equal(ids.div(2).dtype, "float32");
  assert.ok(Object.is(tensor([1]).mul(-0).item(), -0));
});

test("arithmetic broadcasts; in-place methods return their tensor", () => {
  const x = tensor([[1], [2]]);
  assert.deepEqual(x.add(tensor([10, 20])).toNestedArray(), [
    [11, 21],
    [12, 22],
  ]);
  const y = ones([2]);
  assert.equal(
    y
      .add_(1)
      .mul_(tensor([2, 3]))
      .sub_(1)
      .div_(2)
      .clamp_({ max: 2 }),
    y,
  );
  assert.deepEqual(values(y), [1.5, 2]);
  assert.deepEqual(values(y.add_(ones([2]), { alpha: 0.5 })), [2, 2.5]);
  assert.deepEqual(values(y.lerp_(zeros([2]), 0.5)), [1, 1.25]);
  assert.deepEqual(values(y.fill_(3).addcmul_(y, y, { value: 2 })), [21, 21]);
  assert.deepEqual(
    values(
      y
        .zero_()
        .copy_(tensor([4, 9]))
        .sqrt(),
    ),
    [2, 3],
  );
});

test("reductions over all, one or several dimensions", () => {
  const x = arange(0, 8).reshape([2, 2, 2]);
  assert.equal(x.sum().item(), 28);
  assert.deepEqual(values(x.sum({ dim: [0, -1] })), [10, 18]);
  assert.deepEqual(x.mean({ dim: 1, keepdim: true }).shape, [2, 1, 2]);
  assert.deepEqual([x.amax().item(), x.amin().item(), x.argmax().item()], [7, 0, 7]);
  assert.ok(Math.abs(tensor([1, 2, 3, 4]).std().item() - 1.2909944) < 1e-6);
  assert.equal(tensor([1, 2, 3, 4]).var({ unbiased: false }).item(), 1.25);
  assert.equal(tensor([3, 4]).norm().item(), 5);
  assert.equal(tensor([1, NaN]).isnan().any().item(), 1);
  assert.equal(tensor([1, 0]).gt(0).all().item(), 0);
});

test("shape methods", () => {
  const x = arange(0, 6).reshape([2, 3]);
  assert.deepEqual([x.size(-1), x.ndim, x.numel], [3, 2, 6]);
  assert.deepEqual(values(x.slice(1, 1)), [1, 2, 4, 5]);
  assert.deepEqual(values(x.slice(1, 0, 3, 2)), [0, 2, 3, 5]);
  assert.deepEqual(values(x.select(0, -1)), [3, 4, 5]);
  assert.deepEqual(
    x.split(2, 1).map((piece) => piece.shape),
    [
      [2, 2],
      [2, 1],
    ],
  );
  assert.equal(x.chunk(3, 1).length, 3);
  assert.deepEqual(values(x.indexSelect(1, tensor([2, 0], { dtype: "int64" }))), [2, 0, 5, 3]);
  assert.deepEqual(values(x.repeatInterleave(2, 0).select(1, 0)), [0, 0, 3, 3]);
  assert.deepEqual(values(x.flip([1])), [2, 1, 0, 5, 4, 3]);
  assert.deepEqual(x.unsqueeze(0).squeeze(0).flatten().permute([0]).shape, [6]);
  assert.deepEqual(values(torch.where(x.gt(2), x, 0)), [0, 0, 0, 3, 4, 5]);
  assert.deepEqual(torch.cat([x, x], 1).shape, [2, 6]);
  assert.deepEqual(torch.stack([x, x]).shape, [2, 2, 3]);
});

test("channels-last keeps the values and changes the strides", () => {
  const x = arange(0, 24).reshape([1, 2, 3, 4]);
  const last = x.contiguous({ memoryFormat: "channelsLast" });
  assert.deepEqual(last.strides, [24, 1, 8, 2]);
  assert.deepEqual(values(last), values(x));
  assert.ok(last.equal(x));
  const tokens = last.permute([0, 2, 3, 1]).view([1, 12, 2]); // no copy: what attention wants
  assert.deepEqual(tokens.shape, [1, 12, 2]);
  const convolved = torch.conv2d(last, ones([2, 2, 1, 1]).contiguous({ memoryFormat: "channelsLast" }));
  assert.deepEqual(convolved.strides, [24, 1, 8, 2]);
});

test("conversion: dtype, and no copy where nothing changes", () => {
  const x = tensor([1.5, 2.5]);
  assert.deepEqual(values(x.to({ dtype: "int64" })), [1, 2]);
  const same = x.to({ dtype: "float32" });
  same.fill_(7);
  assert.deepEqual(values(x), [7, 7]);
  assert.equal(x.to({ dtype: "bfloat16" }).matmul(x.to({ dtype: "bfloat16" })).dtype, "bfloat16");
});

test("a mapped file is read as it is, and not written", () => {
  const folder = temporaryFolder();
  const file = join(folder, "numbers");
  writeFileSync(file, new Uint8Array(new Float32Array([1, 2, 3]).buffer));
  const bytes = torch.fromFile(file, { size: 12 });
  const numbers = bytes.slice(0, 4).viewAs("float32");
  assert.deepEqual(values(numbers), [2, 3]);
  numbers.fill_(9);
  assert.deepEqual(values(torch.fromFile(file, { size: 3, dtype: "float32" })), [1, 2, 3]);
});

test("functions of layers, by hand", () => {
  const image = arange(0, 4).reshape([1, 1, 2, 2]);
  assert.deepEqual(values(torch.interpolateNearest(image, { scale: 2 }).select(2, 0)), [0, 0, 1, 1]);
  assert.deepEqual(torch.interpolateBicubic(image, [3, 5], { antialias: true }).shape, [1, 1, 3, 5]);
  assert.equal(torch.avgPool2d(image, 2).item(), 1.5);
  assert.deepEqual(torch.pad(image, [0, 1, 1, 0], 5).toNestedArray(), [
    [
      [
        [5, 5, 5],
        [0, 1, 5],
        [2, 3, 5],
      ],
    ],
  ]);
  assert.deepEqual(values(torch.conv2d(image, ones([1, 1, 2, 2]), tensor([10]))), [16]);
  assert.ok(Math.abs(torch.groupNorm(image, 1).std({ unbiased: false }).item() - 1) < 1e-4);
  assert.deepEqual(values(torch.embedding(tensor([[1], [2]]), tensor([1, 0], { dtype: "int64" }))), [2, 1]);
  const logits = tensor([[0, 0]]);
  assert.ok(Math.abs(torch.crossEntropy(logits, tensor([0], { dtype: "int64" })).item() - Math.LN2) < 1e-6);
  assert.equal(torch.mseLoss(tensor([1, 2]), tensor([3, 2]), { reduction: "sum" }).item(), 4);
});

test("whole-list updates", () => {
  const list = [ones([2]), ones([3])];
  torch.foreachAdd_(list, list, { alpha: 2 });
  torch.foreachMul_(list, 2);
  torch.foreachAddcdiv_(list, list, list, { value: 4 });
  assert.deepEqual(
    list.map((x) => x.select(0, 0).item()),
    [10, 10],
  );
  assert.deepEqual(values(torch.foreachSqrt([tensor([4])])[0]!), [2]);
});

test("the same operations give the same bits", () => {
  const run = (): number[] =>
    tidy(() => {
      const generator = new torch.Generator(0);
      const x = torch.randn([64, 64], { generator }).requiresGrad_();
      torch.softmax(x.matmul(x), -1).log().sum().backward();
      return values(x.grad!);
    });
  assert.deepEqual(run(), run());
});

test("an error names the operator, its tensors and what was expected", () => {
  assert.throws(
    () => ones([2, 3]).add(ones([4])),
    (error) => {
      assert.ok(error instanceof TorchError);
      assert.equal(error.operator, "aten::add.Tensor");
      assert.deepEqual(error.tensors, ["self float32[2, 3]", "other float32[4]"]);
      assert.match(error.message, /size of tensor a \(3\) must match/);
      assert.match(error.message, /Expected aten::add.Tensor\(Tensor self, Tensor other/);
      return true;
    },
  );
  assert.throws(() => ones([2]).add("x" as unknown as Tensor), /Expected a Tensor for other of aten::add.Tensor/);
  assert.throws(() => zeros([1.5]), /Expected a whole number for size but received 1.5/);
  assert.throws(() => zeros([1], { dtype: "float" as DType }), /float32, float64.* but received the string "float"/s);
  assert.throws(() => tensor([[1, 2], [3]]), /Expected nested arrays of one shape, \[2, 2\], .* an array of 1/);
});

test("threads are set, not left to what the machine came up with", () => {
  const expected = Number(process.env["B2_THREADS"] ?? process.env["OMP_NUM_THREADS"] ?? availableParallelism());
  assert.equal(torch.numThreads(), expected);
  torch.setNumThreads(1);
  assert.equal(torch.numThreads(), 1);
  torch.setNumThreads(expected);
});

/** Processor time of every thread of this process, in clock ticks. */
function ticksOfThreads(): Map<string, number> {
  const ticks = (id: string): number => {
    const fields = readFileSync(`/proc/self/task/${id}/stat`, "utf8")
      .replace(/^.*\) /, "")
      .split(" ");
    return Number(fields[11]) + Number(fields[12]);
  };
  return new Map(readdirSync("/proc/self/task").map((id) => [id, ticks(id)]));
}

test("one thread is one for matrix products too", { skip: process.platform !== "linux" }, () => {
  const expected = torch.numThreads();
  torch.setNumThreads(1);
  const before = ticksOfThreads();
  tidy(() => {
    for (let i = 0; i < 10; i++) ones([1024, 1024]).matmul(ones([1024, 1024]));
  });
  const taken = [...ticksOfThreads()].map(([id, ticks]) => ticks - (before.get(id) ?? 0));
  torch.setNumThreads(expected);
  const most = Math.max(...taken);
  const others = taken.reduce((sum, ticks) => sum + ticks, -most);
  assert(most > 0 && others <= most / 4, `${taken.join(", ")} ticks`);
});

test("yieldToEventLoop lets timers run in a long loop", async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 5);
  const end = Date.now() + 300;
  while (Date.now() < end) {
    tidy(() => ones([64, 64]).matmul(ones([64, 64])));
    await yieldToEventLoop();
  }
  clearInterval(timer);
  assert.ok(ticks >= 3, `${ticks} ticks`);
});

test("group norm in bfloat16 is that of float32 up to rounding, whatever the size and layout", () => {
  for (const memoryFormat of ["contiguous", "channelsLast"] as const) {
    for (const side of [8, 64]) {
      torch.tidy(() => {
        const image = torch
          .randn([2, 64, side, side], { generator: new torch.Generator(1) })
          .mul(2)
          .add(0.5);
        const half = image.contiguous({ memoryFormat }).to({ dtype: "bfloat16" });
        const [weight, bias] = [torch.ones([64], { dtype: "bfloat16" }), torch.zeros([64], { dtype: "bfloat16" })];
        const got = torch.groupNorm(half, 32, weight, bias).to({ dtype: "float32" });
        const expected = torch.groupNorm(half.to({ dtype: "float32" }), 32);
        // bfloat16 keeps 8 bits.
        assert.ok(got.sub(expected).abs().amax().item() / expected.abs().amax().item() < 2 ** -8);
      });
    }
  }
});
