/** The layer whose states BERTScore compares: for each model the one that the bert-score package has found best. */
import { RewardError } from "./error.js";

/** Of the package's table, the models with an encoder of this project's, by the last part of their names. */
const LAYERS: Readonly<Record<string, number>> = {
  "distilroberta-base": 5,
  "roberta-base": 10,
  "roberta-large": 17,
  "roberta-large-mnli": 19,
  "roberta-base-openai-detector": 7,
  "roberta-large-openai-detector": 15,
  "unsup-simcse-roberta-base": 8,
  "unsup-simcse-roberta-large": 13,
  "sup-simcse-roberta-base": 10,
  "sup-simcse-roberta-large": 16,
  "deberta-base": 9,
  "deberta-base-mnli": 9,
  "deberta-large": 16,
  "deberta-large-mnli": 18,
  "deberta-xlarge": 18,
  "deberta-xlarge-mnli": 40,
};

/** The layer of a folder or hub name, which may end in a revision; undefined for a model that is not in the table. */
export function knownLayer(model: string): number | undefined {
  const name = model.replace(/@.*$/, "").replace(/\/+$/, "").split("/").at(-1)!;
  return Object.hasOwn(LAYERS, name) ? LAYERS[name] : undefined;
}

/** Why there is no layer to take; undefined if there is one. */
export function layerProblem({ model, layer }: { readonly model: string; readonly layer: number | null }) {
  if (layer !== null || knownLayer(model) !== undefined) return undefined;
  return `Expected the option layer for the model ${model}, for which the table of the bert-score package has none`;
}

/** The layer that the options say. @throws RewardError where they say none, and the model is not known */
export function layerOf(options: { readonly model: string; readonly layer: number | null }): number {
  const problem = layerProblem(options);
  if (problem !== undefined) throw new RewardError(problem);
  return options.layer ?? knownLayer(options.model)!;
}
