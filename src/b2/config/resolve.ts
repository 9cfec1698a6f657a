/**
 * Turns presets, config files and `--set a.b=value` into a resolved Config, or throws one error that names every problem
 * at once.
 */
import { InputError } from "../../base/errors.js";
import { isJsonObject, isNestedTooDeep, type JsonObject } from "../../base/files.js";
import type { Entry, Registry } from "../../base/registry.js";
import { show, showProblems } from "../../base/show.js";
import { placeOf, readConfigText } from "./config-file.js";
import { conflicts, type Conflict } from "./conflicts.js";
import { explain } from "./explain.js";
import { modernise } from "./legacy.js";
import { configSchema, type Affects, type Config } from "./schema.js";
import { defaultNames, defaultRewards, registries } from "./sections.js";
import { affectsOf } from "./walk.js";

/** A configuration that cannot run; `problems` has a sentence for each reason. */
export class ConfigError extends InputError {
  override readonly name = "ConfigError";
  readonly problems: readonly string[];

  constructor(problems: readonly string[]) {
    super(
      problems.length === 1
        ? problems[0]!
        : showProblems(
            problems.map((problem) => `- ${problem}`),
            "\n",
          ),
    );
    this.problems = problems;
  }
}

/**
 * Merges layers: later ones override earlier ones key by key, lists as a whole. Where a layer changes the entry
 * (`objective.name`), earlier options stay only if the new entry has them too.
 *
 * @throws ConfigError for a layer that is not an object
 */
export function mergeLayers(...layers: readonly unknown[]): JsonObject {
  const merged: JsonObject = {};
  for (const layer of layers) {
    if (!isJsonObject(layer))
      throw new ConfigError([`Expected an object for the config but received ${show(layer, 60)}`]);
    const modern = modernise(layer);
    for (const section of ["objective", "scheduler"] as const) {
      const [below, above] = [merged[section], modern[section]];
      if (isJsonObject(below) && isJsonObject(above)) keepShared(below, above["name"], registries[section]);
    }
    merge(merged, modern);
  }
  return merged;
}

/**
 * Validates configuration values, see mergeLayers.
 *
 * @throws ConfigError naming every unknown key, every impossible value and every conflict, with the file and the line of
 *   values that were read from one
 */
export function resolveConfig(...layers: readonly unknown[]): Config {
  const merged = mergeLayers(...layers);
  const { rewards } = merged;
  if (isJsonObject(rewards) && isIndexed(rewards)) define(merged, "rewards", withItems(defaultRewards, rewards));
  for (const [section, name] of Object.entries(defaultNames)) {
    const given = merged[section];
    if (isJsonObject(given)) merged[section] = { name, ...given };
  }
  const schema = configSchema();
  const parsed = schema.safeParse(merged, { reportInput: true });
  if (parsed.success) {
    const found = conflicts(parsed.data);
    if (found.length > 0) throw new ConfigError(found.map((conflict) => withFile(conflict, layers)));
    return parsed.data;
  }
  // Conflicts among the valid values belong in the same report: remove the invalid values and check the rest.
  const faulty = new Set<string>();
  const problems = parsed.error.issues.flatMap((issue) => {
    const keys = issue.code === "unrecognized_keys" ? issue.keys : [undefined];
    const sentences = explain(issue);
    return sentences.map((sentence, i) => {
      const key = keys[i];
      const place = lastPlace(layers, key === undefined ? issue.path : [...issue.path, key]);
      return place === undefined ? sentence : `${place}: ${sentence}`;
    });
  });
  for (const issue of parsed.error.issues) {
    const keys = issue.code === "unrecognized_keys" ? issue.keys.map((key) => [...issue.path, key]) : [issue.path];
    for (const key of keys) {
      faulty.add(key.join("."));
      remove(merged, key);
    }
  }
  const rest = schema.safeParse(merged, { reportInput: true });
  if (rest.success) {
    for (const conflict of conflicts(rest.data))
      if (!conflict.keys.some((key) => faulty.has(key))) problems.push(withFile(conflict, layers));
  }
  throw new ConfigError(problems);
}

/** Where the value that counts stands: in the last layer that has the key, if that one is a file. */
function lastPlace(layers: readonly unknown[], path: readonly PropertyKey[]): string | undefined {
  const layer = layers.findLast((layer) => isJsonObject(layer) && has(modernise(layer), path));
  return placeOf(layer, path);
}

/** Whether a value is there, or a list or a text in whose stead it would be. */
function has(layer: JsonObject, path: readonly PropertyKey[]): boolean {
  let at: unknown = layer;
  for (const step of path) {
    if (typeof at !== "object" || at === null) return at !== undefined;
    if (!Object.hasOwn(at, step)) return false;
    at = (at as Record<PropertyKey, unknown>)[step];
  }
  return at !== undefined;
}

/** The reason of a conflict, with the file if all keys that are given come from it. */
function withFile({ keys, reason }: Conflict, layers: readonly unknown[]): string {
  const given = keys
    .map((key) => key.split("."))
    .filter((path) => layers.some((layer) => isJsonObject(layer) && has(modernise(layer), path)));
  const files = new Set(given.map((path) => lastPlace(layers, path)?.replace(/:\d+$/, "")));
  const [file] = files;
  return files.size === 1 && file !== undefined ? `${file}: ${reason}` : reason;
}

/** A ConfigError with a single message, in the signature that readers of files expect. */
class FileError extends ConfigError {
  constructor(message: string) {
    super([message]);
  }
}

/**
 * Reads a config file, YAML or JSON: an object with any part of the keys. As a layer of resolveConfig, problems with its
 * values name the file and the line.
 *
 * @throws ConfigError naming the file and the line, when it cannot be read or is not an object
 */
export const readConfigFile = (file: string): JsonObject => readConfigText(file, FileError);

/**
 * Parses `--set` assignments such as `branch.count=5`. The value is JSON where it parses as JSON, else a string.
 *
 * @throws ConfigError for an assignment without a key or an equals sign
 */
export function parseAssignments(assignments: readonly string[]): JsonObject {
  const problems: string[] = [];
  const layers = assignments.map((assignment): JsonObject => {
    const [, path, text] = /^([A-Za-z][\w.]*)=(.*)$/s.exec(assignment) ?? [];
    if (path === undefined) {
      problems.push(`Expected key=value for --set, such as branch.count=5, but received ${show(assignment, 60)}`);
      return {};
    }
    const [keys, value] = [path.split("."), parseValue(text!)];
    if (keys.length > MOST_KEYS || isNestedTooDeep(value)) {
      problems.push(`Expected at most ${MOST_KEYS} keys in each other for --set but received ${show(assignment, 60)}`);
      return {};
    }
    return keys.reduceRight<unknown>((value, key) => ({ [key]: value }), value) as JsonObject;
  });
  if (problems.length > 0) throw new ConfigError(problems);
  return mergeLayers(...layers);
}

/** One key in which two configs differ. */
export interface Difference {
  readonly key: string;
  readonly before: unknown;
  readonly after: unknown;
  /** undefined for keys that decide what is computed. */
  readonly affects: Affects | undefined;
}

/** The keys in which two configs differ, as `a.b` or `rewards.0.url`, with both values. */
export function differences(before: unknown, after: unknown): Difference[] {
  return differing(before, after).map(([key, a, b]) => ({ key, before: a, after: b, affects: affectsOf(key, after) }));
}

function differing(a: unknown, b: unknown, prefix = ""): [key: string, a: unknown, b: unknown][] {
  if (isJsonObject(a) && isJsonObject(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...keys].flatMap((key) => differing(a[key], b[key], prefix === "" ? key : `${prefix}.${key}`));
  }
  if (isObjects(a) && isObjects(b) && a.length === b.length) {
    return a.flatMap((item, i) => differing(item, b[i], `${prefix}.${i}`));
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [[prefix, a, b]];
}

/** Whether a value is a list of objects, such as the rewards. */
const isObjects = (value: unknown): value is readonly JsonObject[] => Array.isArray(value) && value.every(isJsonObject);

function parseValue(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function merge(target: JsonObject, source: JsonObject): void {
  for (const [key, value] of Object.entries(source)) {
    if (value === undefined) continue;
    const own = Object.hasOwn(target, key) ? target[key] : undefined;
    if (isJsonObject(value) && Array.isArray(own) && isIndexed(value)) {
      define(target, key, withItems(own, value));
    } else if (isJsonObject(value)) {
      const nested: JsonObject = isJsonObject(own) ? own : {};
      merge(nested, value);
      define(target, key, nested);
    } else {
      define(target, key, value);
    }
  }
}

const isIndexed = (value: JsonObject): boolean => Object.keys(value).every((index) => /^\d+$/.test(index));

/** Keys of `--set` in each other at most, and items of a list: far more than any config has. */
const MOST_KEYS = 50;
const MOST_ITEMS = 10_000;

/**
 * `rewards.0.weight=2`: a list with some of its items changed.
 *
 * @throws ConfigError for a number that would make a list of nothing but holes
 */
function withItems(list: readonly unknown[], changes: JsonObject): unknown[] {
  const changed = [...list];
  for (const [index, change] of Object.entries(changes)) {
    if (Number(index) >= MOST_ITEMS) {
      throw new ConfigError([
        `Expected numbers below ${MOST_ITEMS} for the items of a list but received ${show(index, 60)}`,
      ]);
    }
    const own = changed[Number(index)];
    const nested: JsonObject = isJsonObject(own) ? { ...own } : {};
    if (isJsonObject(change)) merge(nested, change);
    changed[Number(index)] = isJsonObject(change) ? nested : change;
  }
  return changed;
}

/** Drops options of the former entry that the entry named now does not have. */
function keepShared(options: JsonObject, name: unknown, registry: Registry<Entry>): void {
  if (typeof name !== "string" || options["name"] === name) return;
  const shape = registry.find(name)?.options.shape;
  if (shape === undefined) return;
  for (const key of Object.keys(options)) if (!Object.hasOwn(shape, key)) delete options[key];
}

/** Assigns as an own property: `__proto__` in a JSON file stays an ordinary, unknown key. */
function define(target: JsonObject, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, enumerable: true, writable: true, configurable: true });
}

function remove(target: JsonObject, path: readonly PropertyKey[]): void {
  // An element of a list stands for its whole list.
  const end = path.findIndex((key) => typeof key === "number");
  const keys = (end < 0 ? path : path.slice(0, end)).map(String);
  const leaf = keys.pop();
  let at: unknown = target;
  for (const key of keys) at = isJsonObject(at) ? at[key] : undefined;
  if (leaf !== undefined && isJsonObject(at)) Reflect.deleteProperty(at, leaf);
}
