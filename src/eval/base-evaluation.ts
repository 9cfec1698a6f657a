/** The evaluation before training, which runs of the same model, prompts, sampler and seed have in common. */
import { differences } from "../b2/config/resolve.js";
import type { Config } from "../b2/config/schema.js";
import { configOfFolder } from "../b2/run-plan.js";
import { InputError } from "../base/errors.js";
import { RunReader } from "../runs/reader.js";
import type { Evaluation } from "./measures.js";
import { readEvaluation } from "./results.js";

/** Config keys that an evaluation of the base model depends on, and those among them that it does not. */
const DECIDING = /^(seed|model|scheduler|prompts|sample|rewards|plugins|eval)\b/;
const OTHERS = /^(sample\.(roots\w+|noise)|prompts\.(order|fixed)|eval\.(enabled|every|sheet\w*))$/;

/**
 * The evaluation before training of the run in `folder`, if the base model of `config` has the same, bit by bit.
 *
 * @throws InputError when it was made with other values, naming their keys
 */
export function baseEvaluation(folder: string, config: Config): Evaluation | undefined {
  const reader = new RunReader(folder);
  const keys = differences(configOfFolder(reader), config).map(({ key }) => key);
  const others = (key: string): boolean => OTHERS.test(key) || (key === "sample.steps" && config.eval.steps !== null);
  const deciding = keys.filter((key) => DECIDING.test(key) && !others(key));
  if (deciding.length > 0) {
    throw new InputError(
      `Expected a run that measures the base model in the same way but received ${folder}, which has other values for ` +
        deciding.join(", "),
    );
  }
  return readEvaluation(reader, "before");
}

/** Whether `baseEvaluation` returns one. */
export function hasBaseEvaluation(folder: string, config: Config): boolean {
  try {
    return RunReader.exists(folder) && baseEvaluation(folder, config) !== undefined;
  } catch (error) {
    if (error instanceof InputError) return false;
    throw error;
  }
}
