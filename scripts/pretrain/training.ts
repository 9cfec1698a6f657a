/**
 * The training loop that all pre-training steps share: AdamW, warm-up and cosine, clipped gradients, a moving average
 * of the weights, and a checkpoint every minute from which a run that was cut off goes on as if nothing had happened.
 *
 * What a step of training draws depends on the seed and the step's number alone, so no state of random number
 * generators has to be kept.
 */
import { existsSync, rmSync } from "node:fs";
import { AdamW, clipGradNorm } from "../../src/optim/index.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../../src/safetensors/index.js";
import {
  breathe,
  foreachAdd_,
  foreachMul_,
  Generator,
  keep,
  noGrad,
  tidy,
  type Tensor,
} from "../../src/torch/index.js";
import { Random } from "../../src/world/index.js";
import { startProgress } from "./progress.js";
import type { TrainingRecipe } from "./recipe.js";

const SECONDS_BETWEEN_CHECKPOINTS = 60;
const MAX_GRADIENT_NORM = 1;

/** What one step of training may draw from. */
export interface Draws {
  random: Random;
  generator: Generator;
}

export interface TrainingTask {
  name: string;
  recipe: TrainingRecipe;
  seed: number;
  parameters: ReadonlyMap<string, Tensor>;
  /** The loss of a fresh batch, and what else is worth showing, as scalars. */
  loss: (batch: number, draws: Draws) => { loss: Tensor; figures?: Record<string, Tensor> };
  /** Where the checkpoint lies while training is under way. */
  checkpointFile: string;
}

/** Running means of the loss and the other figures at the end of training. */
export type TrainingFigures = Record<string, number>;

/** Trains the parameters in place; at the end they hold their moving average. */
export async function train(task: TrainingTask): Promise<TrainingFigures> {
  const { name, recipe, seed, loss, checkpointFile } = task;
  const parameters = [...task.parameters.values()];
  for (const parameter of parameters) parameter.requiresGrad_(true);
  const average = tidy(() => parameters.map((parameter) => parameter.detach().clone()));
  const optimizer = new AdamW(task.parameters, recipe);
  const generator = new Generator();
  const figures = new RunningMeans();

  const named = (tensors: readonly Tensor[], prefix: string) =>
    [...task.parameters.keys()].map((key, i) => [`${prefix}.${key}`, tensors[i]!] as const);
  const state = () => [
    ...named(parameters, "parameter"),
    ...named(average, "average"),
    ...[...optimizer.state()].map(([key, tensor]) => [`optimizer.${key}`, tensor] as const),
  ];

  let step = 0;
  if (existsSync(checkpointFile)) {
    step = Number(readHeader(checkpointFile).metadata.step);
    restore(checkpointFile, state);
    optimizer.steps = step;
  }
  const progress = startProgress(name, recipe.steps, step);
  let saved = Date.now();
  for (; step < recipe.steps; step++) {
    optimizer.learningRate = learningRate(recipe, step);
    generator.seed(seed * 1_000_003 + step);
    const draws = { random: new Random(seed * 1_000_003 + step), generator };
    tidy(() => {
      const { loss: value, figures: others = {} } = loss(recipe.batch, draws);
      value.backward();
      clipGradNorm(parameters, MAX_GRADIENT_NORM);
      optimizer.step();
      optimizer.zeroGrad();
      // A short memory at first, so that the draw of fresh weights is soon forgotten.
      const decay = Math.min(recipe.average, (step + 1) / (step + 10));
      noGrad(() => {
        foreachMul_(average, decay);
        foreachAdd_(average, parameters, { alpha: 1 - decay });
      });
      figures.add({ loss: value, ...others });
    });
    if (!Number.isFinite(figures.latest("loss"))) throw new Error(`Expected a finite loss of ${name} at step ${step}`);
    progress.update(step + 1, figures.toString());
    if (Date.now() - saved > SECONDS_BETWEEN_CHECKPOINTS * 1000) {
      saveSafetensors(checkpointFile, new Map(state()), { step: String(step + 1) });
      saved = Date.now();
    }
    await breathe();
  }
  progress.stop();
  noGrad(() => parameters.forEach((parameter, i) => parameter.copy_(average[i]!)));
  for (const tensor of average) tensor.dispose();
  for (const parameter of parameters) parameter.requiresGrad_(false);
  rmSync(checkpointFile, { force: true });
  return figures.means();
}

export function learningRate({ learningRate: peak, warmup, steps }: TrainingRecipe, step: number): number {
  const warm = Math.min(1, (step + 1) / warmup);
  const cosine = 0.5 + 0.5 * Math.cos((Math.PI * step) / steps);
  return peak * warm * (0.01 + 0.99 * cosine);
}

/** Fills the tensors of a training state from a checkpoint. */
function restore(file: string, state: () => (readonly [string, Tensor])[]): void {
  tidy(() =>
    noGrad(() => {
      const saved = loadSafetensors(file);
      for (const [key, tensor] of state()) {
        const from = saved.get(key);
        if (!from) throw new Error(`Expected ${key} in ${file} but received a checkpoint without it`);
        tensor.copy_(from);
      }
    }),
  );
}

/** Means of scalars that forget the past within some fifty steps. */
class RunningMeans {
  private readonly values = new Map<string, { mean: number; latest: number }>();

  add(scalars: Record<string, Tensor>): void {
    for (const [name, scalar] of Object.entries(scalars)) {
      const latest = scalar.item();
      const before = this.values.get(name);
      this.values.set(name, { mean: before ? before.mean + (latest - before.mean) / 50 : latest, latest });
    }
  }

  latest(name: string): number {
    return this.values.get(name)?.latest ?? NaN;
  }

  means(): TrainingFigures {
    return Object.fromEntries([...this.values].map(([name, { mean }]) => [name, Number(mean.toPrecision(4))]));
  }

  toString(): string {
    return [...this.values].map(([name, { mean }]) => `${name} ${mean.toPrecision(3)}`).join("  ");
  }
}
