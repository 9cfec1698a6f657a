/** Records in a run folder: safetensors for trajectories, JSON beside them for what they are of. */
import { readFileSync } from "node:fs";
import { type RunReader, type RunWriter, type SampleLine } from "../runs/index.js";
import { loadSafetensors, saveSafetensors } from "../safetensors/index.js";
import { type Tensor, tensor, tidy } from "../torch/index.js";
import { InputError } from "./input-error.js";
import type { BranchBatch, SampleKey, ScoredBatch, TrainSet } from "./records.js";

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
  const { keys, timesteps } = JSON.parse(readFileSync(run.stagePath(stage, "sampled"), "utf8")) as {
    keys: SampleKey[];
    timesteps: number[];
  };
  const [latents, logProbs] = load(run.stagePath(stage, "sampledTensors"), ["latents", "log_probs"]);
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
  const names = ["latents", "log_probs", "advantages", "timesteps", "samples"] as const;
  const [latents, logProbs, ...small] = load(run.stagePath(stage, "selected"), names);
  const [advantages, timesteps, samples] = small.map((t) =>
    [...(t.toTypedArray() as Iterable<number | bigint>)].map(Number),
  );
  for (const t of small) t.dispose();
  const lines = run.samples(stage);
  const keys = samples!.map((i) => {
    const { root, branch, prompt } = lines[i]!;
    return { root, branch, prompt };
  });
  return { stage, keys, timesteps: timesteps!, latents: latents!, logProbs: logProbs!, advantages: advantages! };
}

/** Named tensors of a file, as copies: the file may be replaced while they live. */
function load(file: string, names: readonly string[]): Tensor[] {
  return tidy(() => {
    const tensors = loadSafetensors(file);
    return names.map((name) => {
      const found = tensors.get(name);
      if (found === undefined) throw new InputError(`Expected a tensor ${name} in ${file} but received none`);
      return found.clone();
    });
  });
}
