/** Records in a run folder: safetensors for trajectories, JSON beside them for what they are of. */
import { z } from "zod";
import { type RunReader, type RunWriter, type SampleLine } from "../runs/index.js";
import { loadSafetensors, SafetensorsError, saveSafetensors } from "../safetensors/index.js";
import { allFinite, type DType, type Tensor, tensor, tidy } from "../torch/index.js";
import { InputError } from "../base/errors.js";
import { type BranchBatch, disposeRecord, type ScoredBatch, type TrainSet } from "./records.js";

const natural = z.int().min(0);
const sampledSchema = z.object({
  keys: z.array(z.object({ root: natural, branch: natural, prompt: z.string() })),
  timesteps: z.array(natural),
});

/** Keeps all branches of a stage for a later process to score. */
export function saveBranches(run: RunWriter, batch: BranchBatch): void {
  const { stage, keys, timesteps, latents, logProbs } = batch;
  saveSafetensors(run.stagePath(stage, "sampledTensors"), { latents, log_probs: logProbs });
  run.writeSampled(stage, { keys, timesteps });
}

/** @throws InputError when `b2 sample` has not run for this stage */
export function loadBranches(run: RunReader, stage: number): BranchBatch {
  if (!run.has(stage, "sampled") || !run.has(stage, "sampledTensors")) {
    throw new InputError(
      `Expected the samples of stage ${stage} in ${run.folder} but received none; run b2 sample first`,
    );
  }
  const sampled = sampledSchema.safeParse(run.sampled(stage));
  if (!sampled.success) {
    const [{ path, message }] = sampled.error.issues as [z.core.$ZodIssue];
    throw new InputError(`${run.stagePath(stage, "sampled")}: ${path.join(".")}: ${message}`);
  }
  const { keys, timesteps } = sampled.data;
  const [latents, logProbs] = load(run.stagePath(stage, "sampledTensors"), {
    latents: ["float32", keys.length, timesteps.length + 1, "C", "h", "w"],
    log_probs: ["float32", keys.length, timesteps.length],
  });
  return { stage, keys, timesteps, latents: latents!, logProbs: logProbs! };
}

/** A line of samples.jsonl for every branch. */
export function sampleLines(
  { keys, rewards, advantages }: ScoredBatch,
  selected: ReadonlySet<number>,
  image: (sample: number) => string | undefined,
): SampleLine[] {
  return keys.map((key, i) => {
    const name = image(i);
    return {
      ...key,
      reward: rewards[i]!,
      advantage: advantages[i]!,
      selected: selected.has(i),
      ...(name === undefined ? {} : { image: name }),
    };
  });
}

/** Keeps the selected trajectories. `samples` are their places in samples.jsonl. */
export function saveTrainSet(run: RunWriter, trainSet: TrainSet, samples: readonly number[]): void {
  const { stage, timesteps, latents, logProbs, advantages } = trainSet;
  tidy(() => {
    saveSafetensors(run.stagePath(stage, "selected"), {
      latents,
      log_probs: logProbs,
      advantages: tensor(Float64Array.from(advantages)),
      timesteps: tensor(BigInt64Array.from(timesteps, BigInt)),
      samples: tensor(BigInt64Array.from(samples, BigInt)),
    });
  });
}

/** @throws InputError when `b2 select` has not run for this stage */
export function loadTrainSet(run: RunReader, stage: number): TrainSet {
  if (!run.has(stage, "selected") || !run.has(stage, "samples")) {
    throw new InputError(
      `Expected the selected trajectories of stage ${stage} in ${run.folder} but received none; run b2 select first`,
    );
  }
  const file = run.stagePath(stage, "selected");
  const [latents, logProbs, ...small] = load(file, {
    latents: ["float32", "m", "s + 1", "C", "h", "w"],
    log_probs: ["float32", "m", "s"],
    advantages: ["float64", "m"],
    timesteps: ["int64", "s"],
    samples: ["int64", "m"],
  });
  const [advantages, timesteps, samples] = small.map((t) =>
    [...(t.toTypedArray() as Iterable<number | bigint>)].map(Number),
  );
  for (const t of small) t.dispose();
  const lines = run.samples(stage);
  const keys = samples!.map((i) => {
    const line = lines[i];
    if (line === undefined) {
      disposeRecord({ latents: latents!, logProbs: logProbs! });
      throw new SafetensorsError(
        file,
        `Expected lines of samples.jsonl, 0 to ${lines.length - 1}, but received ${i}`,
        "samples",
      );
    }
    const { root, branch, prompt } = line;
    return { root, branch, prompt };
  });
  return { stage, keys, timesteps: timesteps!, latents: latents!, logProbs: logProbs!, advantages: advantages! };
}

/**
 * Named tensors of a file, as copies: the file may be replaced while they live.
 *
 * @param forms of the tensors: dtype and shape, in numbers and in names that each stand for one number wherever they
 *   are ("s + 1" for one more)
 * @throws SafetensorsError naming the file and the tensor that is missing, too many, of another form or not finite
 */
function load(file: string, forms: Readonly<Record<string, readonly [DType, ...(number | string)[]]>>): Tensor[] {
  return tidy(() => {
    const tensors = loadSafetensors(file);
    const stranger = [...tensors.keys()].find((name) => !Object.hasOwn(forms, name));
    if (stranger !== undefined) throw new SafetensorsError(file, "Expected no such tensor", stranger);
    const known = new Map<string, number>();
    const fits = (size: number, expected: number | string): boolean => {
      if (typeof expected === "number") return size === expected;
      const [name, more = "0"] = expected.split(" + ") as [string, string?];
      if (!known.has(name)) known.set(name, size - Number(more));
      return size === known.get(name)! + Number(more);
    };
    return Object.entries(forms).map(([name, [dtype, ...expected]]) => {
      const found = tensors.get(name);
      const problem = (received: string) =>
        new SafetensorsError(file, `Expected ${dtype} [${expected.join(", ")}] but received ${received}`, name);
      if (found === undefined) throw problem("nothing");
      const { shape } = found;
      if (
        found.dtype !== dtype ||
        shape.length !== expected.length ||
        !expected.every((size, i) => fits(shape[i]!, size))
      ) {
        throw problem(`${found.dtype} [${shape.join(", ")}]`);
      }
      if (!allFinite(found)) throw problem("NaN or infinity");
      return found.clone();
    });
  });
}
