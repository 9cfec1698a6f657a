/**
 * The training loop that all pre-training steps share: AdamW, warm-up and cosine, clipped gradients, a moving average
 * of the weights, and a checkpoint every minute from which an interrupted run resumes with the same result.
 *
 * The random numbers of a step depend only on the seed and the step's number, so no generator state has to be saved.
 */
import { existsSync, rmSync } from "node:fs";
import { AdamW, clipGradNorm } from "../../src/optim/index.js";
import { loadSafetensors, readHeader, saveSafetensors } from "../../src/safetensors/index.js";
import {
  foreachAdd_,
  foreachMul_,
  Generator,
  inference,
  noGrad,
  tidy,
  yieldToEventLoop,
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
  /** How far training has got, 0 to 1. */
  progress: number;
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
  const { betas, weightDecay } = recipe;
  const optimizer = new AdamW(task.parameters, { betas, weightDecay });
  const generator = new Generator();
  const figures = new RunningMeans();

  const weights = () =>
    new Map(
      [...task.parameters].flatMap(([key, parameter], i) => [
        [`parameter.${key}`, parameter],
        [`average.${key}`, average[i]!],
      ]),
    );
  const saveCheckpoint = (step: number) => {
    const moments = [...optimizer.state()].map(([key, moment]) => [`optimizer.${key}`, moment] as const);
    tidy(() => saveSafetensors(checkpointFile, new Map([...weights(), ...moments]), { step: String(step) }));
  };

  let step = 0;
  if (existsSync(checkpointFile)) {
    step = Number(readHeader(checkpointFile).metadata.step);
    restore(checkpointFile, weights(), optimizer);
  }
  const progress = startProgress(name, recipe.steps, step);
  let saved = Date.now();
  for (; step < recipe.steps; step++) {
    optimizer.lr = learningRate(recipe, step);
    generator.seed(seed * 1_000_003 + step);
    const draws = { random: new Random(seed * 1_000_003 + step), generator, progress: step / recipe.steps };
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
      saveCheckpoint(step + 1);
      saved = Date.now();
    }
    await yieldToEventLoop();
  }
  progress.stop();
  noGrad(() => parameters.forEach((parameter, i) => parameter.copy_(average[i]!)));
  for (const tensor of average) tensor.dispose();
  optimizer.dispose();
  for (const parameter of parameters) parameter.requiresGrad_(false);
  rmSync(checkpointFile, { force: true });
  return figures.means();
}

export function learningRate({ learningRate: peak, warmup, steps }: TrainingRecipe, step: number): number {
  const warm = Math.min(1, (step + 1) / warmup);
  const cosine = 0.5 + 0.5 * Math.cos((Math.PI * step) / steps);
  return peak * warm * (0.01 + 0.99 * cosine);
}

/** Loads weights, their averages and the optimiser's moments from a checkpoint. */
function restore(file: string, weights: ReadonlyMap<string, Tensor>, optimizer: AdamW): void {
  inference(() => {
    const saved = loadSafetensors(file);
    for (const [key, tensor] of weights) {
      const from = saved.get(key);
      if (!from) throw new Error(`Expected ${key} in ${file} but received a checkpoint without it`);
      tensor.copy_(from);
    }
    const prefix = "optimizer.";
    const moments = [...saved].filter(([key]) => key.startsWith(prefix));
    optimizer.loadState(new Map(moments.map(([key, moment]) => [key.slice(prefix.length), moment])));
  });
}

/** Means of scalars that forget the past within some fifty steps. */
class RunningMeans {
  readonly #values = new Map<string, { mean: number; latest: number }>();

  add(scalars: Record<string, Tensor>): void {
    for (const [name, scalar] of Object.entries(scalars)) {
      const latest = scalar.item();
      const before = this.#values.get(name);
      this.#values.set(name, { mean: before ? before.mean + (latest - before.mean) / 50 : latest, latest });
    }
  }

  latest(name: string): number {
    return this.#values.get(name)?.latest ?? NaN;
  }

  means(): TrainingFigures {
    return Object.fromEntries([...this.#values].map(([name, { mean }]) => [name, Number(mean.toPrecision(4))]));
  }

  toString(): string {
    return [...this.#values].map(([name, { mean }]) => `${name} ${mean.toPrecision(3)}`).join("  ");
  }
}
