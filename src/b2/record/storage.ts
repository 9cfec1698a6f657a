/** Records in a run folder: trajectories as safetensors, their keys and timesteps as JSON beside them. */
import { z } from "zod";
import { InputError } from "../../base/errors.js";
import type { RunReader, RunWriter, SampleLine } from "../../runs/index.js";
import {
  checkTensors,
  Dimension,
  loadSafetensors,
  SafetensorsError,
  saveSafetensors,
  type ExpectedTensor,
} from "../../safetensors/index.js";
import { tensor, tidy, type Tensor } from "../../torch/index.js";
import type { LearnsFrom } from "../objectives/index.js";
import { disposeRecord, edgeOf, type BranchBatch, type Edge, type ScoredBatch, type TrainSet } from "../records.js";

const natural = z.int().min(0);
const sampledSchema = z.object({
  keys: z.array(z.object({ root: natural, branch: natural, prompt: z.string() })),
  timesteps: z.array(z.number().min(0)),
});

/** Saves all branches of a stage, for a later process to score. */
export function saveBranches(run: RunWriter, batch: BranchBatch): void {
  const { stage, keys, timesteps, latents, logProbs } = batch;
  saveSafetensors(run.stagePath(stage, "sampledTensors"), { latents, ...(logProbs && { log_probs: logProbs }) });
  run.writeSampled(stage, { keys, timesteps });
}

/** @throws InputError when `b2 sample` has not run for this stage */
export function expectBranches(run: RunReader, stage: number): void {
  if (run.has(stage, "sampled") && run.has(stage, "sampledTensors")) return;
  throw new InputError(
    `Expected the samples of stage ${stage} in ${run.folder} but received none; run b2 sample first`,
  );
}

/** @throws InputError when `b2 select` has not run for this stage */
export function expectTrainSet(run: RunReader, stage: number): void {
  if (run.has(stage, "selected") && run.has(stage, "samples")) return;
  throw new InputError(
    `Expected the selected trajectories of stage ${stage} in ${run.folder} but received none; run b2 select first`,
  );
}

/** @throws InputError when `b2 sample` has not run for this stage */
export function loadBranches(run: RunReader, stage: number, shape: RecordShape): BranchBatch {
  expectBranches(run, stage);
  const sampled = sampledSchema.safeParse(run.sampled(stage));
  if (!sampled.success) {
    const [{ path, message }] = sampled.error.issues as [z.core.$ZodIssue];
    throw new InputError(`${run.stagePath(stage, "sampled")}: ${path.join(".")}: ${message}`);
  }
  const { keys, timesteps } = sampled.data;
  const file = run.stagePath(stage, "sampledTensors");
  const tensors = load(file, expectedTensors(shape, keys.length, timesteps.length));
  return { stage, keys, timesteps, latents: tensors["latents"]!, logProbs: tensors["log_probs"] };
}

/** A line of samples.jsonl for every branch. */
export function sampleLines(
  { keys, rewards, parts, advantages }: ScoredBatch,
  selected: ReadonlySet<number>,
  images: readonly (string | undefined)[],
): SampleLine[] {
  return keys.map((key, i) => {
    const name = images[i];
    const own = Object.entries(parts).map(([label, values]) => [label, values[i]!] as const);
    return {
      ...key,
      reward: rewards[i]!,
      // A single reward of weight 1 equals the sum and is not repeated.
      ...((own.length > 1 || own.some(([, value]) => value !== rewards[i])) && { rewards: Object.fromEntries(own) }),
      advantage: advantages[i]!,
      selected: selected.has(i),
      ...(name === undefined ? {} : { image: name }),
    };
  });
}

/** Saves the selected trajectories. `samples` are their line numbers in samples.jsonl, from 0. */
export function saveTrainSet(
  run: RunWriter,
  trainSet: TrainSet,
  samples: readonly number[],
  { isTree }: Pick<RecordShape, "isTree">,
): void {
  const { stage, keys, timesteps, latents, logProbs, advantages } = trainSet;
  tidy(() => {
    saveSafetensors(run.stagePath(stage, "selected"), {
      latents,
      ...(logProbs && { log_probs: logProbs }),
      advantages: tensor(Float64Array.from(advantages)),
      timesteps: tensor(Float64Array.from(timesteps)),
      samples: tensor(BigInt64Array.from(samples, BigInt)),
      ...(isTree && { edges: edgesTensor(keys.map((key) => edgeOf(key, timesteps.length))) }),
    });
  });
}

/** @throws InputError when `b2 select` has not run for this stage */
export function loadTrainSet(run: RunReader, stage: number, shape: RecordShape): TrainSet {
  expectTrainSet(run, stage);
  const file = run.stagePath(stage, "selected");
  const tensors = load(file, {
    ...expectedTensors(shape, m, s),
    advantages: { dtype: "float64", shape: [m] },
    timesteps: { dtype: "float64", shape: [s] },
    samples: { dtype: "int64", shape: [m] },
    ...(shape.isTree && { edges: { dtype: "int64", shape: [m, 3] } }),
  });
  const trajectories = { latents: tensors["latents"]!, logProbs: tensors["log_probs"] };
  const advantages = numbersOf(tensors["advantages"]!);
  const timesteps = numbersOf(tensors["timesteps"]!);
  const edges = tensors["edges"] && edgesOf(tensors["edges"]);
  const lines = run.samples(stage);
  const keys = numbersOf(tensors["samples"]!).map((i, row) => {
    const line = lines[i];
    if (line === undefined) {
      disposeRecord(trajectories);
      const received = `Expected lines of samples.jsonl, 0 to ${lines.length - 1}, but received ${i}`;
      throw new SafetensorsError(file, received, "samples");
    }
    const { root, branch, prompt } = line;
    return { root, branch, prompt, ...(edges && { edge: edges[row]! }) };
  });
  return { stage, keys, timesteps, advantages, ...trajectories };
}

/** Determines the expected tensors of a record. */
export interface RecordShape {
  readonly learnsFrom: LearnsFrom;
  /** Shape of one image's latents. */
  readonly latentShape: readonly number[];
  /** Whether rows of a train set are edges. */
  readonly isTree: boolean;
}

const [m, s] = [new Dimension("m"), new Dimension("s")];

/** The latents of n (or m) samples, and the log-probs of s steps if transitions are recorded. */
function expectedTensors(
  { learnsFrom, latentShape }: RecordShape,
  samples: number | Dimension,
  steps: number | Dimension,
): Record<string, ExpectedTensor> {
  const states = learnsFrom === "final-latents" ? 1 : typeof steps === "number" ? steps + 1 : steps.plus(1);
  return {
    latents: { dtype: "float32", shape: [samples, states, ...latentShape] },
    ...(learnsFrom === "transitions" && { log_probs: { dtype: "float32", shape: [samples, steps] } }),
  };
}

/**
 * The tensors of a file.
 *
 * @throws SafetensorsError naming the file and every tensor that is missing, unexpected, misshaped or not finite
 */
function load(file: string, expected: Readonly<Record<string, ExpectedTensor>>): Record<string, Tensor> {
  return tidy(() => {
    const stored = loadSafetensors(file);
    checkTensors(file, stored, expected, "the trajectories of this run");
    return Object.fromEntries(stored);
  });
}

/** [m, 3]: first step, step after the last, parent. */
const edgesTensor = (edges: readonly Edge[]): Tensor =>
  tensor(
    BigInt64Array.from(
      edges.flatMap(({ from, to, parent }) => [from, to, parent]),
      BigInt,
    ),
    {
      shape: [edges.length, 3],
    },
  );

/** What `edgesTensor` holds; the tensor is freed. */
function edgesOf(stored: Tensor): Edge[] {
  const values = numbersOf(stored);
  return Array.from({ length: values.length / 3 }, (_, row) => {
    const [from, to, parent] = values.slice(row * 3, row * 3 + 3) as [number, number, number];
    return { from, to, parent };
  });
}

/** The values of a small tensor, which is freed. */
function numbersOf(tensor: Tensor): number[] {
  const values = [...(tensor.toTypedArray() as Iterable<number | bigint>)].map(Number);
  tensor.dispose();
  return values;
}
