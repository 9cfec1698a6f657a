/** What must hold of the JSON of a run's folder before anything is computed from it. */
import { InputError } from "../base/errors.js";
import { isJsonObject, type JsonObject } from "../base/files.js";
import { listOf } from "../base/show.js";
import type { Cost } from "./cost.js";
import type { IntervalMeasurement, PartialStage, StageMetrics } from "./metrics.js";

/** A folder is not a run, or its files are damaged. */
export class RunError extends InputError {
  override readonly name = "RunError";
}

const isNumber = (value: unknown): value is number => typeof value === "number";
const isNumberOrNull = (value: unknown): value is number | null => value === null || isNumber(value);
const isNatural = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;

/** Whether a value is an object whose values all hold. */
const isRecord = (value: unknown, holds: (value: unknown) => boolean): value is JsonObject =>
  isJsonObject(value) && Object.values(value).every(holds);

const COSTS: readonly (keyof Cost)[] = ["queries", "forwardPasses", "backwardPasses", "seconds", "processorSeconds"];

const isCost = (value: unknown): value is Cost => isJsonObject(value) && COSTS.every((key) => isNumber(value[key]));

/** @throws RunError naming the file and the keys that do not hold */
function expect(file: string, expected: string, holds: Readonly<Record<string, boolean>>): void {
  const wrong = Object.keys(holds).filter((key) => !holds[key]);
  if (wrong.length > 0)
    throw new RunError(`Expected ${expected} in ${file} but received others for ${listOf(wrong, "and")}`);
}

/** The metrics that no stage lacks. */
const ALWAYS_MEASURED = ["stage", "rewardMean"] as const;

/** Of these, null says that there is nothing to measure; runs of earlier versions lack some. */
const MEASURED = [
  ...(["trainedSteps", "images", "rewardStd", "rewardBranchStd", "selected", "positives", "negatives"] as const),
  ...(["updates", "pairs", "firstRatioMin", "firstRatioMax", "ratioMin", "ratioMax", "loss", "gradNorm"] as const),
  ...(["lossScale", "skipped", "emaDistance", "secondsSample", "secondsScore", "secondsTrain"] as const),
  ...(["imagesPerSecond", "pairsPerSecond", "liveTensors", "residentMegabytes", "deviceMegabytes"] as const),
  ...(["promptGroups", "flatGroups", "notFiniteSteps", "notFiniteRoots"] as const),
] satisfies (keyof StageMetrics)[];

/** The metrics of a stage; what its version did not measure is null. @throws RunError naming the file */
export function checkedMetrics(json: JsonObject, file: string): StageMetrics {
  const values: JsonObject = { rewards: {}, objective: {}, cost: null, halvedBatches: {}, ...json };
  const lacking = ALWAYS_MEASURED.filter((key) => !isNumber(values[key]));
  if (lacking.length > 0) throw new RunError(`Expected a number for ${listOf(lacking, "and")} in ${file}`);
  const { rewards, objective, cost } = values;
  expect(file, "the metrics of a stage", {
    ...Object.fromEntries(MEASURED.map((key) => [key, values[key] === undefined || isNumberOrNull(values[key])])),
    rewards: isRecord(rewards, (one) => isJsonObject(one) && isNumberOrNull(one["mean"])),
    objective: isRecord(objective, isNumberOrNull),
    halvedBatches: isRecord(values["halvedBatches"], isNumber),
    cost: cost === null || isCost(cost),
  });
  for (const key of MEASURED) values[key] ??= null;
  return values as unknown as StageMetrics;
}

/** What an unfinished stage has taken. @throws RunError naming the file */
export function checkedPartial(json: JsonObject, file: string): Partial<PartialStage> {
  const { sample = 0, score = 0, train = 0, rewards = {}, costs = {} } = json;
  expect(file, "seconds and costs", {
    ...{ sample: isNumber(sample), score: isNumber(score), train: isNumber(train) },
    rewards: isRecord(rewards, isNumber),
    costs: isRecord(costs, isCost),
  });
  return json;
}

/** What was measured before a stage. @throws RunError naming the file */
export function checkedInterval(json: JsonObject, file: string): IntervalMeasurement {
  const { stage, first, last, shares, cost } = json;
  const isShare = (one: unknown): boolean =>
    isJsonObject(one) && isNatural(one["steps"]) && ["share", "low", "high"].every((key) => isNumberOrNull(one[key]));
  expect(file, "what was measured before a stage", {
    stage: isNatural(stage),
    ...{ first: isNatural(first) && first !== 0, last: isNatural(last) && last !== 0 },
    shares: Array.isArray(shares) && shares.every(isShare),
    cost: isCost(cost),
  });
  return json as unknown as IntervalMeasurement;
}
