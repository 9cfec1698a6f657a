/**
 * Rewrites config files of version 0.1.0, and the short notations of current ones, into what the schema expects. Each
 * layer is rewritten before layers are merged.
 */
import { isJsonObject, type JsonObject } from "../../base/files.js";

/** Where the keys of 0.1.0 went. */
const MOVED: readonly (readonly [from: string, to: string])[] = [
  ["reward.batchSize", "sample.decodeBatchSize"],
  ["sample.eta", "scheduler.eta"],
  ["model.vaeTiling", "model.tiling"],
  ["train.objective", "objective.name"],
  ["train.clipRange", "objective.clipRange"],
  ["train.dpoBeta", "objective.beta"],
];

/** A config layer in the current notation, as a copy. */
export function modernise(layer: JsonObject): JsonObject {
  const modern = structuredClone(layer);
  for (const [from, to] of MOVED) move(modern, from, to);
  // The default of 0.1.0, which resolved configs spell out.
  if (isLegacy(layer) && JSON.stringify(modern["scheduler"]) === '{"eta":1}') delete modern["scheduler"];
  // 0.1.0 wrote the beta of dpo into every resolved config.
  if (typeof modern["interval"] === "string") modern["interval"] = { mode: modern["interval"] };
  const { objective, train, lora, interval } = modern;
  // What is measured is not given as well.
  if (isJsonObject(interval) && interval["mode"] === "measured") {
    modern["interval"] = { first: null, last: null, ...interval };
  }
  if (isJsonObject(objective) && objective["name"] === "ppo" && isJsonObject(layer["train"])) delete objective["beta"];
  if (isJsonObject(train) && train["parameters"] === "unet") train["parameters"] = "full";
  if (isLegacy(layer) && JSON.stringify((lora as JsonObject | undefined)?.["targetModules"]) === FORMER_TARGETS) {
    (lora as JsonObject)["targetModules"] = null;
  }
  if (isJsonObject(modern["reward"])) {
    modern["rewards"] ??= Object.keys(modern["reward"]).length === 0 ? undefined : [formerReward(modern["reward"])];
    delete modern["reward"];
  }
  if (typeof modern["rewards"] === "string") modern["rewards"] = [modern["rewards"]];
  if (Array.isArray(modern["rewards"])) modern["rewards"] = (modern["rewards"] as unknown[]).map(named);
  return modern;
}

/** The default of lora.targetModules in 0.1.0, which wrote it into resolved configs. The model chooses it now. */
const FORMER_TARGETS = JSON.stringify(["to_q", "to_k", "to_v", "to_out.0"]);

const isLegacy = ({ reward, train }: JsonObject): boolean =>
  isJsonObject(reward) || (isJsonObject(train) && Object.hasOwn(train, "objective"));

/** The single reward of 0.1.0, where only clip-score used `model`. */
function formerReward({ name = "clip-score", model, ...others }: JsonObject): unknown {
  return { name, ...(name === "clip-score" && model !== undefined && { model }), ...others };
}

/** Expands the short notations of a reward: `"brightness"`, `"clip:<folder>"`, `"./mine.js"`. */
function named(reward: unknown): unknown {
  const given: unknown = typeof reward === "string" ? { name: reward } : reward;
  if (!isJsonObject(given) || typeof given["name"] !== "string") return given;
  const { name, ...options } = given as JsonObject & { name: string };
  if (name.startsWith("clip:")) return { name: "clip-score", model: name.slice("clip:".length), ...options };
  return /[/\\]|\.[cm]?[jt]s$/.test(name) ? { name: "module", path: name, ...options } : given;
}

/** Moves a value from one section to another, unless the target is set already. */
function move(config: JsonObject, from: string, to: string): void {
  const [section, key] = from.split(".") as [string, string];
  const [newSection, newKey] = to.split(".") as [string, string];
  const old = config[section];
  if (!isJsonObject(old) || !Object.hasOwn(old, key)) return;
  const target = config[newSection] ?? {};
  if (isJsonObject(target) && !Object.hasOwn(target, newKey)) {
    config[newSection] = { ...target, [newKey]: old[key] };
  }
  if (config[newSection] !== old) delete (config[section] as JsonObject)[key];
}
