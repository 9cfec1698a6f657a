/**
 * Golden vectors: small random-weight models beside inputs and outputs that PyTorch, diffusers, transformers and peft
 * computed (test/fixtures/README.md). The tests run on the project's own sets and on every set named in the environment
 * variable GOLDEN (colon-separated: folders of a model, and selection files).
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { Conditioning, DiffusionModel } from "../../src/pipeline/index.js";
import { loadSafetensors } from "../../src/safetensors/index.js";
import { noGrad, stack, tidy, type Tensor } from "../../src/torch/index.js";
import { fixtures } from "./folders.js";

/** Largest deviation allowed, as a share of the largest expected number. */
export const outputTolerance = 2e-5;
export const gradientTolerance = 1e-4;

function named(): string[] {
  return (process.env["GOLDEN"] ?? "").split(":").filter((path) => path !== "");
}

function isFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory();
}

/** A folder of golden vectors. */
export class GoldenSet {
  readonly folder: string;
  readonly name: string;

  constructor(folder: string) {
    this.folder = folder;
    this.name = basename(folder);
  }

  path(...parts: string[]): string {
    return join(this.folder, ...parts);
  }

  has(...parts: string[]): boolean {
    return existsSync(this.path(...parts));
  }

  json<T>(...parts: string[]): T {
    return JSON.parse(readFileSync(this.path(...parts), "utf8")) as T;
  }

  /** The tensors of a file; asking for one that it does not have is an error. */
  tensors(...parts: string[]): GoldenTensors {
    return new GoldenTensors(loadSafetensors(this.path(...parts)));
  }
}

export class GoldenTensors {
  readonly #all: ReadonlyMap<string, Tensor>;

  constructor(all: ReadonlyMap<string, Tensor>) {
    this.#all = all;
  }

  get(key: string): Tensor {
    const tensor = this.#all.get(key);
    assert(tensor !== undefined, `the golden set has no ${key}`);
    return tensor;
  }

  find(key: string): Tensor | undefined {
    return this.#all.get(key);
  }

  /** Those whose key begins with the prefix, without it. */
  under(prefix: string): Map<string, Tensor> {
    const entries = [...this.#all].filter(([key]) => key.startsWith(prefix));
    return new Map(entries.map(([key, tensor]) => [key.slice(prefix.length), tensor]));
  }
}

/** Every folder of golden vectors that holds this file, as "unet/io.safetensors". */
export function goldenSets(...parts: string[]): GoldenSet[] {
  const folders = [
    ...["sd1", "sd2", "sdxl", "sd3", "unusual", "rewards"].map((name) => join(fixtures, name)),
    ...named().filter(isFolder),
  ];
  return folders.map((folder) => new GoldenSet(folder)).filter((set) => parts.length === 0 || set.has(...parts));
}

/** Those of them whose denoiser is a UNet. */
export const goldenUNets = (...parts: string[]): GoldenSet[] => goldenSets(...parts).filter((set) => set.has("unet"));

/**
 * Follows a golden trajectory with the noise that it was drawn with: latents, log-probs and pictures.
 *
 * @param model with the golden LoRA
 */
export function followTrajectory(
  set: GoldenSet,
  model: Pick<DiffusionModel, "scheduler" | "predict" | "decode">,
  conditioning: Conditioning,
): void {
  const io = set.tensors("lora", "io_trajectory.safetensors");
  const [noise, golden] = [io.get("noise"), io.get("latents")];
  const timesteps = model.scheduler.timesteps(noise.size(0));
  assert.deepEqual(timesteps, goldenTimesteps(set, io));
  let sample = golden.select(1, 0);
  const latents = [sample];
  const logProbs = timesteps.map((timestep, i) => {
    const modelOutput = model.predict(sample, timestep, conditioning);
    const step = { modelOutput, timestep, sample, numInferenceSteps: timesteps.length, noise: noise.select(0, i) };
    const { prevSample, logProb } = model.scheduler.step(step);
    sample = prevSample;
    latents.push(sample);
    return logProb;
  });
  assertClose(stack(latents, 1), golden, outputTolerance, `${set.name} latents`);
  assertClose(stack(logProbs, 1), io.get("log_probs"), outputTolerance, `${set.name} log_probs`);
  assertClose(model.decode(sample), io.get("image"), outputTolerance, `${set.name} image`);
}

/** How a config names a set's model: T5's texts have the length of the set's. */
export function goldenModel(set: GoldenSet): {
  readonly path: string;
  readonly options: Readonly<Record<string, number>>;
} {
  const path = set.folder;
  if (!set.has("text_encoder_3")) return { path, options: {} };
  const ids = set.tensors("text_encoder_3", "io.safetensors").get("input_ids");
  return { path, options: { maxSequenceLength: ids.size(1) } };
}

/** The timesteps of a set's trajectory. */
export const goldenTimesteps = (set: GoldenSet, trajectory: GoldenTensors): number[] =>
  (
    trajectory.find("timesteps") ??
    set.tensors("scheduler", `io_${trajectory.get("noise").size(0)}.safetensors`).get("timesteps")
  ).toArray();

/** Every selection file. */
export function selectionFiles(): string[] {
  return [join(fixtures, "selection.json"), ...named().filter((path) => !isFolder(path))];
}

/** The largest deviation as a share of the largest expected number. */
export function relativeError(actual: Tensor, expected: Tensor): number {
  assert.deepEqual(actual.shape, expected.shape);
  return tidy(() =>
    noGrad(() => {
      const [a, e] = [actual.to({ dtype: "float64" }), expected.to({ dtype: "float64" })];
      const scale = e.abs().amax().item();
      const worst = a.sub(e).abs().amax().item();
      return scale === 0 ? worst : worst / scale;
    }),
  );
}

/** Asserts that two tensors agree within a tolerance relative to the expected one's scale. NaN never agrees. */
export function assertClose(actual: Tensor, expected: Tensor, tolerance: number, what: string): void {
  const error = relativeError(actual, expected);
  if (process.env["GOLDEN_VERBOSE"]) console.log(`${what}: ${error.toExponential(1)}`);
  assert(error <= tolerance, `${what}: Expected a relative error of at most ${tolerance} but received ${error}`);
}

/** The settings of a golden update (lora/update.json). */
export interface GoldenUpdate {
  readonly lora_rank: number;
  readonly lora_alpha: number;
  readonly eta: number;
  readonly guidance_scale: number;
  readonly num_steps: number;
  readonly clip_range: number;
  /** How flow matching draws noise. Default: DDIM. */
  readonly sampler?: string;
  /** Default: all of them. */
  readonly trained_transitions?: number;
  readonly optimizer: { lr: number; betas: [number, number]; weight_decay: number; eps: number };
  readonly max_grad_norm: number;
}

/** The settings of a golden update of any family. Without a maximum of their norm, gradients are not clipped. */
export interface GoldenPolicyUpdate
  extends
    Omit<GoldenUpdate, "optimizer" | "max_grad_norm">,
    Partial<Pick<GoldenUpdate, "optimizer" | "max_grad_norm">> {
  /** How flow matching draws noise. Default: DDIM. */
  readonly sampler?: string;
  /** Default: all of them. */
  readonly trained_transitions?: number;
}

/**
 * Asserts new weights after Adam's first step, which moves each by lr g / (|g| + eps): where |g| is near eps = 1e-8 it
 * magnifies the gradient's own rounding, so each weight may be off by what the gradients' tolerance makes of it.
 */
export function assertUpdated(
  actual: Tensor,
  expected: Tensor,
  grad: Tensor,
  { lr, eps }: GoldenUpdate["optimizer"],
  what: string,
): void {
  tidy(() => {
    const { scale, noise } = {
      scale: expected.abs().amax().item(),
      noise: gradientTolerance * grad.abs().amax().item(),
    };
    const slope = grad.abs().add(eps).square().pow(-1).mul(eps); // of g / (|g| + eps)
    const allowed = slope
      .mul(noise)
      .clamp({ max: 2 })
      .mul(lr)
      .add(outputTolerance * scale);
    const excess = actual.detach().sub(expected).abs().sub(allowed).amax().item();
    assert(excess <= 0, `${what}: ${excess} beyond what the gradient's tolerance explains`);
  });
}
