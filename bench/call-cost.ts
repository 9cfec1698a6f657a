/**
 * The cost of one operator call on a tiny tensor, beside PyTorch's own Python call: `node dist/bench/call-cost.js`.
 *
 * Both run in one go, taking turns of a few milliseconds, so that other load on the machine affects both alike; the
 * number is the median over the turns. PYTHON names the python3 with torch. Ours is measured inside tidy (which frees
 * every result), and with dispose by hand.
 */
import { performance } from "node:perf_hooks";
import { fileURLToPath } from "node:url";
import { enableGrad, noGrad, numThreads, ones, tidy, torchVersion, type Tensor } from "../src/torch/index.js";
import { LineProcess, pytorchEnvironment } from "./line-process.js";

const CALLS = 2000;
const TURNS = 200;

const a = ones([2, 2]);
const b = ones([2, 2]);
const w = ones([2, 2]).requiresGrad_();

type Measure = (x: Tensor, y: Tensor, calls: number) => void;

const inTidy: Measure = (x, y, calls) => {
  tidy(() => {
    for (let i = 0; i < calls; i++) x.add(y);
  });
};

const withDispose: Measure = (x, y, calls) => {
  for (let i = 0; i < calls; i++) x.add(y).dispose();
};

/** Microseconds of one call, including freeing its result. */
function microseconds(measure: Measure, x: Tensor, y: Tensor): number {
  const start = performance.now();
  (x.requiresGrad ? enableGrad : noGrad)(() => measure(x, y, CALLS));
  return ((performance.now() - start) / CALLS) * 1000;
}

function median(values: number[]): number {
  return values.sort((x, y) => x - y)[values.length >> 1]!;
}

/** Starts PyTorch's side; undefined if there is no torch. */
async function startPython(): Promise<{ version: string; process: LineProcess } | undefined> {
  const script = fileURLToPath(new URL("../../bench/call_cost_torch.py", import.meta.url));
  const child = new LineProcess(process.env["PYTHON"] ?? "python3", [script, String(numThreads())], {
    env: pytorchEnvironment(),
    silent: true,
  });
  try {
    return { version: (await child.answer()) as string, process: child };
  } catch {
    return undefined;
  }
}

const cases = [
  { name: "no gradient", x: a },
  { name: "with gradient", x: w },
];
const python = await startPython();
console.log(`libtorch ${torchVersion()}, Node ${process.version}; PyTorch ${python?.version ?? "not found"}`);
console.log(`one add of two 2x2 tensors, microseconds, median of ${TURNS} turns of ${CALLS} calls`);
for (const { name, x } of cases) {
  const ours: number[] = [];
  const disposed: number[] = [];
  const theirs: number[] = [];
  for (let turn = 0; turn < TURNS; turn++) {
    ours.push(microseconds(inTidy, x, b));
    if (python !== undefined) theirs.push((await python.process.answer(`${name} ${CALLS}`)) as number);
    disposed.push(microseconds(withDispose, x, b));
  }
  const base = median(theirs);
  const beside = (value: number): string =>
    `${value.toFixed(2)}${python === undefined ? "" : ` (${(value / base).toFixed(2)}x)`}`;
  console.log(
    `${name.padEnd(14)}  tidy ${beside(median(ours))}  dispose ${beside(median(disposed))}` +
      (python === undefined ? "" : `  PyTorch ${base.toFixed(2)}`),
  );
}
python?.process.end();
