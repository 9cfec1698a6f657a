/**
 * Stable Diffusion 1.4, SDXL and Stable Diffusion 3.5 medium at their true sizes on this machine: seconds, GFLOP/s, share
 * of the machine's own matmul peak and peak memory of loading, encoding two prompts, a guided denoising step, a LoRA
 * training step and decoding, for one image or several at a time.
 *
 *     npm run build && node dist/bench/full-size.js [--model sd14|sdxl|sd35|sd35-t5] [--dtype float32] [--device cpu]
 *       [--pixels 512] [--images 1] [--work forward,step,train,decode] [--rounds 3] [--python python3] [--cache <folder>]
 *       [--stored <dtype of the file>] [--checkpointing] [--offload]
 *
 * The weights are random (bench/full-size-models.ts), created once in `--cache`, in the dtype they are loaded in unless
 * `--stored` names another. `--offload` encodes before the denoiser is loaded, and frees the encoders. On an accelerator,
 * memory is that of its tensors, and both sides compute float32 in full. With `--python`, a Python with torch and
 * safetensors, PyTorch's eager mode does the same forward and training in turn (bench/full_size_torch.py), so that a busy
 * machine slows both; the fastest round of each counts. Each side is a process of its own, so that its memory can be
 * measured.
 *
 * Floating-point operations are counted at the calls into libtorch (bench/flops.ts); a training step counts as two
 * forward passes, its own and the gradient of the activations (three with `--checkpointing`): frozen weights get none.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { homedir, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { InputError } from "../src/base/errors.js";
import { listOf } from "../src/base/show.js";
import type { Device, DType } from "../src/torch/index.js";
import { modelNames } from "./full-size-models.js";
import type { SideSettings } from "./full-size-side.js";
import { LineProcess, pytorchEnvironment } from "./line-process.js";

const { values } = parseArgs({
  options: {
    model: { type: "string", default: "sd14" },
    dtype: { type: "string", default: "float32" },
    stored: { type: "string" },
    device: { type: "string", default: "cpu" },
    pixels: { type: "string", default: "512" },
    images: { type: "string", default: "1" },
    work: { type: "string", default: "forward,step,train,decode" },
    rounds: { type: "string", default: "3" },
    python: { type: "string" },
    cache: { type: "string", default: join(homedir(), ".cache/b2-diffurl/bench") },
    checkpointing: { type: "boolean", default: false },
    offload: { type: "boolean", default: false },
  },
});

const works = ["forward", "step", "train", "decode"] as const;
type Work = (typeof works)[number];

/** @throws InputError for an unknown value */
function oneOf<T extends string>(option: string, known: readonly T[], value: string): T {
  const found = known.find((name) => name === value);
  if (found !== undefined) return found;
  throw new InputError(`Expected ${listOf(known)} for --${option} but received ${value}`);
}

const model = oneOf("model", modelNames, values.model);
const dtypes = ["float32", "bfloat16", "float16"] as const;
const dtype = oneOf("dtype", dtypes, values.dtype);
const stored = oneOf("stored", dtypes, values.stored ?? dtype);
const chosen = values.work.split(",").map((name) => oneOf("work", works, name.trim()));

interface Measured {
  readonly seconds: number;
  /** Peak of resident bytes, or of an accelerator's. */
  readonly peak: number;
  /** GFLOP/s of a matmul right before or right after, whichever was higher. */
  readonly matmul?: number;
}

interface Greeting {
  readonly version: string;
  readonly load: Measured;
  /** Encoding two prompts. */
  readonly text: Measured;
  /** Loading the denoiser, where the text encoders were loaded and freed before it. */
  readonly ofDenoiser: Measured;
  /** Bytes in use before the load. */
  readonly before: number;
  /** Of the weights in memory while it denoises. */
  readonly weightBytes: number;
  /** Largest distance of the first ratio from 1. */
  readonly firstRatio: number;
  readonly parameters: number;
  /** The dtype of forward passes. */
  readonly computeDtype: DType;
  /** Of one guided prediction. */
  readonly flops: number;
}

/** A side of the comparison: its greeting, and its process. */
interface Side<G> {
  readonly greeting: G;
  readonly process: LineProcess;
}

async function start<G>(command: string, args: readonly string[], env?: NodeJS.ProcessEnv): Promise<Side<G>> {
  const process = new LineProcess(command, args, env && { env });
  return { greeting: (await process.answer()) as G, process };
}

/** Rounds of a piece of work, with the sides taking turns: the fastest round and the peak memory of each side. */
async function best(work: string, sides: readonly Side<unknown>[], rounds: number): Promise<Measured[]> {
  const results: Measured[][] = sides.map(() => []);
  for (let round = 0; round < rounds; round++) {
    for (const [i, { process }] of sides.entries()) results[i]!.push((await process.answer(work)) as Measured);
  }
  return results.map((measured) => ({
    seconds: Math.min(...measured.map(({ seconds }) => seconds)),
    peak: Math.max(...measured.map(({ peak }) => peak)),
    matmul: Math.max(...measured.map(({ matmul }) => matmul ?? 0)),
  }));
}

const shown = (seconds: number): string => seconds.toPrecision(3);
const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;

const scratch = mkdtempSync(join(tmpdir(), "b2-full-size-"));
try {
  mkdirSync(values.cache, { recursive: true });
  const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
  const folder = await drawn();
  const settings: SideSettings = {
    folder,
    example: join(scratch, "example.safetensors"),
    dtype,
    device: values.device as Device,
    pixels: Number(values.pixels),
    images: Number(values.images),
    checkpointing: values.checkpointing,
    offload: values.offload,
  };
  const told = JSON.stringify(settings);
  const ours = await start<Greeting>(process.execPath, [script("full-size-side.js"), told]);
  const theirs =
    values.python === undefined
      ? undefined
      : await start<{ version: string; error: number }>(
          values.python,
          [script("../../bench/full_size_torch.py"), told],
          pytorchEnvironment(),
        );

  const { load, text, ofDenoiser, before, weightBytes, firstRatio, parameters, computeDtype, flops, version } =
    ours.greeting;
  console.log(
    `${model}, weights in ${dtype}, computed in ${computeDtype}, ${values.pixels}x${values.pixels} pixels, ` +
      `images at a time: ${values.images}, device ${values.device}; denoiser of ` +
      `${(parameters / 1e6).toFixed(0)} M parameters, all weights ${gigabytes(weightBytes)}; libtorch ${version}; ` +
      `the first ratio is 1 but for ${firstRatio.toExponential(1)}` +
      (theirs === undefined
        ? ""
        : `; PyTorch ${theirs.greeting.version}, outputs differ by ${theirs.greeting.error.toExponential(1)}`),
  );
  console.log("\n| work | seconds | GFLOP/s | of matmul peak | peak memory | PyTorch | ours / PyTorch |");
  console.log("| --- | --- | --- | --- | --- | --- | --- |");
  const ofWeights = (peak: number): string =>
    `${gigabytes(peak)} (${(peak / weightBytes).toFixed(2)} x weights; ${gigabytes(before)} before)`;
  const loaded = values.offload ? gigabytes(load.peak) : ofWeights(load.peak);
  console.log(`| load | ${load.seconds.toFixed(1)} | | | ${loaded} | | |`);
  console.log(`| text | ${shown(text.seconds)} | | | ${gigabytes(text.peak)} | | |`);
  if (values.offload) {
    console.log(`| load the denoiser | ${ofDenoiser.seconds.toFixed(1)} | | | ${ofWeights(ofDenoiser.peak)} | | |`);
  }
  // The first training step also creates Adam's moments, which does not matter: the fastest round is printed.
  const passes: Partial<Record<Work, number>> = { forward: 1, step: 1, train: values.checkpointing ? 3 : 2 };
  let matmulBest = 0; // so far; lower on a busy machine
  for (const work of chosen) {
    const sides = theirs !== undefined && (work === "forward" || work === "train") ? [ours, theirs] : [ours];
    const [mine, other] = await best(work, sides, Number(values.rounds));
    const { seconds, peak, matmul = 0 } = mine!;
    matmulBest = Math.max(matmulBest, matmul);
    const rate = passes[work] === undefined ? undefined : (passes[work] * flops) / seconds / 1e9;
    const cells = [
      work,
      shown(seconds),
      rate?.toFixed(0) ?? "",
      rate === undefined ? "" : `${((100 * rate) / matmulBest).toFixed(0)}% of ${matmulBest.toFixed(0)}`,
      gigabytes(peak),
      other === undefined ? "" : `${shown(other.seconds)} s, ${gigabytes(other.peak)}`,
      other === undefined ? "" : (seconds / other.seconds).toFixed(2),
    ];
    console.log(`| ${cells.join(" | ")} |`);
  }
  ours.process.end();
  theirs?.process.end();
} finally {
  rmSync(scratch, { recursive: true });
}

/** The model's folder, created by a separate process, so that its memory is returned to the system. */
async function drawn(): Promise<string> {
  const module = new URL("full-size-models.js", import.meta.url).href;
  const call = `fullSizeModel(${[model, stored, values.cache].map((text) => JSON.stringify(text)).join(", ")})`;
  const code = `import { fullSizeModel } from ${JSON.stringify(module)}; console.log(JSON.stringify(${call}));`;
  const side = await start<string>(process.execPath, ["--input-type=module", "-e", code]);
  side.process.end();
  return side.greeting;
}
