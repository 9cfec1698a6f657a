/**
 * What a device computes beside the CPU: denoising, decoding, the reward and a LoRA training step, in every precision
 * that it has, with times and memory. The models come with the package or have random weights, so that nothing is
 * downloaded.
 */
import { join } from "node:path";
import { resolveConfig } from "../b2/index.js";
import { openDevice } from "../b2/policy/device.js";
import { packageRoot } from "../base/package-root.js";
import { checkInterrupted, type RunContext } from "../base/progress.js";
import { printable } from "../base/show.js";
import type { WeightsOptions } from "../nn/index.js";
import { StableDiffusionPipeline } from "../pipeline/index.js";
import { Clip } from "../rewards/index.js";
import {
  computeDtype,
  computeProblem,
  deviceCount,
  isOutOfMemory,
  TorchError,
  torchVersion,
  yieldToEventLoop,
  type Device,
  type DType,
} from "../torch/index.js";
import { exercise, largestError, predict, type Exercised, type ExerciseOptions } from "./exercise.js";
import { dtypes } from "./facts.js";
import { gigabytes } from "./finding.js";
import { memory } from "./limits.js";
import { randomStableDiffusion14 } from "./stable-diffusion-14.js";

type Precision = (typeof dtypes)[number];

/** "tiny" is the embedded model alone; "sd14" has Stable Diffusion 1.4 besides. */
export const smokeSizes = ["tiny", "sd14"] as const;
export type SmokeSize = (typeof smokeSizes)[number];

export interface SmokeCheck {
  readonly name: string;
  /** The largest error; null if a number is not finite. */
  readonly error: number | null;
  readonly allowed: number;
  readonly passed: boolean;
}

/** A model in one precision on the device. */
export interface SmokePrecision {
  /** Of the weights. */
  readonly dtype: DType;
  /** Of the forward passes. */
  readonly computeDtype: DType;
  readonly checks: readonly SmokeCheck[];
  readonly seconds: Exercised["seconds"];
  readonly peakBytes: number;
}

export interface SmokeModel {
  readonly model: string;
  readonly images: number;
  readonly pixels: number;
  readonly precisions: readonly SmokePrecision[];
  /** What ended with an error. */
  readonly failures: readonly string[];
  /** What was not done, and why. */
  readonly leftOut: readonly string[];
}

export interface SmokeReport {
  readonly device: Device;
  readonly libtorch: string;
  readonly models: readonly SmokeModel[];
  readonly passed: boolean;
}

/** A model to exercise. */
interface Subject {
  readonly model: string;
  readonly prompts: readonly string[];
  readonly pixels: number;
  readonly open: (options: Required<Pick<WeightsOptions, "dtype" | "device">>) => StableDiffusionPipeline;
  /** Folder of the CLIP that scores its images. */
  readonly clip?: string;
  /** Whether the CPU makes a prediction alone, since more would take minutes. */
  readonly predictionOnly: boolean;
  /** Main memory that it takes, in bytes. */
  readonly needs: number;
}

const inPackage = (path: string): string => join(packageRoot(), path);

const embedded: Subject = {
  model: "the embedded model",
  prompts: ["a fox riding a bike with a green apple", "a cat playing chess with a red banana"],
  pixels: 64,
  open: (options) => StableDiffusionPipeline.fromPretrained(inPackage("models/emoji"), options),
  clip: inPackage("models/emoji-clip"),
  predictionOnly: false,
  needs: 0,
};

/** At its own size on an accelerator; on a CPU at a quarter of the pixels, which take a minute and a laptop's memory. */
const fullSize = (device: Device): Subject => ({
  model: "Stable Diffusion 1.4, random weights",
  prompts: ["a cat riding a bike"],
  pixels: device === "cpu" ? 256 : 512,
  open: randomStableDiffusion14,
  predictionOnly: true,
  needs: device === "cpu" ? 7.5e9 : 6e9,
});

/**
 * The largest errors that count as rounding. Float32 on another device sums in another order; TF32, which keeps 10 bits,
 * would be ten times above this. Guidance multiplies the rounding of half precision by five (docs/benchmarks.md).
 */
const allowed: Record<Precision, Record<"prediction" | "images" | "reward" | "gradient", number>> = {
  float32: { prediction: 1e-4, gradient: 1e-3, images: 1e-3, reward: 1e-3 },
  bfloat16: { prediction: 0.2, gradient: 0.2, images: 0.2, reward: 0.1 },
  float16: { prediction: 0.05, gradient: 0.1, images: 0.05, reward: 0.05 },
};

/** The first ratio is 1 up to the rounding of a float32 log-prob. */
const RATIO_ERROR = 1e-6;

/** The best device of this machine. */
export const bestDevice = (): Device => (["cuda", "mps"] as const).find((kind) => deviceCount(kind) > 0) ?? "cpu";

/**
 * Exercises the models on a device.
 *
 * @throws InputError for a device that is not there or computes nothing; Interrupted
 */
export async function smoke(
  { device: name = bestDevice(), size = "sd14" }: { device?: string | undefined; size?: SmokeSize | undefined },
  context: RunContext,
): Promise<SmokeReport> {
  const device = openDevice(resolveConfig({ model: { device: name } }));
  const models: SmokeModel[] = [];
  for (const subject of size === "tiny" ? [embedded] : [embedded, fullSize(device)]) {
    models.push(await smokeModel(subject, device, context));
  }
  const checks = models.flatMap(({ precisions }) => precisions.flatMap((precision) => precision.checks));
  const passed =
    checks.length > 0 && checks.every((check) => check.passed) && models.every(({ failures }) => failures.length === 0);
  return { device, libtorch: torchVersion(), models, passed };
}

async function smokeModel(subject: Subject, device: Device, context: RunContext): Promise<SmokeModel> {
  const { model, prompts, pixels, predictionOnly, needs } = subject;
  const about = { model, images: prompts.length, pixels };
  const { available } = memory();
  if (available < needs) {
    const leftOut = [`all of it: it takes ${gigabytes(needs)} of main memory, and ${gigabytes(available)} are free`];
    return { ...about, precisions: [], failures: [], leftOut };
  }
  const reference = { dtype: "float32", device: "cpu" } as const;
  const expected = await withModel(subject, reference, context, (model, given) =>
    predictionOnly ? { prediction: predict(model, given) } : exercise(model, given),
  );
  const precisions: SmokePrecision[] = [];
  const [failures, leftOut]: [string[], string[]] = [[], []];
  for (const dtype of dtypes) {
    const computed = computeDtype(dtype, device);
    const problem = computeProblem(device, computed);
    if (problem !== undefined) {
      leftOut.push(`${dtype}: ${firstLineOf(problem)}`);
      continue;
    }
    try {
      const received = await withModel(subject, { dtype, device }, context, exercise);
      const { seconds, peakBytes } = received;
      precisions.push({
        dtype,
        computeDtype: computed,
        checks: compare(received, expected, dtype),
        seconds,
        peakBytes,
      });
    } catch (error) {
      if (isOutOfMemory(error)) leftOut.push(`${dtype}: out of memory on ${device}`);
      else if (error instanceof TorchError) failures.push(`${dtype}: ${firstLineOf(error)}`);
      else throw error;
    }
  }
  return { ...about, precisions, failures, leftOut };
}

const firstLineOf = ({ message }: Error): string => printable(message.split("\n", 1)[0]!);

/** Loads a model, works with it and frees it. */
async function withModel<T>(
  { model: name, prompts, pixels, open, clip: folder }: Subject,
  { dtype, device }: Required<Pick<WeightsOptions, "dtype" | "device">>,
  { progress, signal }: RunContext,
  work: (model: StableDiffusionPipeline, given: ExerciseOptions) => T | Promise<T>,
): Promise<T> {
  await yieldToEventLoop();
  checkInterrupted(signal);
  progress.log(`${name} in ${dtype} on ${device}`);
  const clip = folder === undefined ? undefined : Clip.fromPretrained(folder, { device });
  let model: StableDiffusionPipeline | undefined;
  try {
    model = open({ dtype, device });
    return await work(model, { prompts, pixels, clip });
  } finally {
    model?.dispose();
    clip?.dispose();
  }
}

/** What both sides computed, and the ratio that needs no other side. */
function compare(received: Exercised, expected: Partial<Exercised>, dtype: Precision): SmokeCheck[] {
  const check = (name: string, error: number, most: number): SmokeCheck => {
    return { name, error: Number.isFinite(error) ? error : null, allowed: most, passed: error <= most };
  };
  const compared = (["prediction", "images", "reward", "gradient"] as const).filter(
    (name) => (expected[name]?.length ?? 0) > 0,
  );
  const ones = Array<number>(received.ratios.length).fill(1);
  return [
    ...compared.map((name) => check(name, largestError(received[name], expected[name]!), allowed[dtype][name])),
    check("first ratio", largestError(received.ratios, ones), RATIO_ERROR),
  ];
}
