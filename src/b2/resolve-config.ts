/**
 * From what people write (presets, JSON files, `--set a.b=value`) to a resolved Config, or to one error that names
 * every problem at once.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";
import { type Config, configSchema, conflicts } from "./config.js";
import { InputError } from "../base/errors.js";

/** A configuration that cannot run; `problems` has a sentence for each reason. */
export class ConfigError extends InputError {
  override readonly name = "ConfigError";

  constructor(readonly problems: readonly string[]) {
    super(problems.length === 1 ? problems[0]! : problems.map((problem) => `- ${problem}`).join("\n"));
  }
}

type Json = { [key: string]: unknown };

const isObject = (value: unknown): value is Json =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/**
 * Validates configuration values; later layers override earlier ones key by key, lists as a whole.
 *
 * @throws ConfigError naming every unknown key, every impossible value and every conflict
 */
export function resolveConfig(...layers: readonly unknown[]): Config {
  const merged: Json = {};
  for (const layer of layers) {
    if (!isObject(layer)) throw new ConfigError([`Expected an object for the config but received ${show(layer)}`]);
    merge(merged, layer);
  }
  const parsed = configSchema.safeParse(merged, { reportInput: true });
  if (parsed.success) {
    const found = conflicts(parsed.data);
    if (found.length > 0) throw new ConfigError(found.map(({ reason }) => reason));
    return parsed.data;
  }
  // Conflicts among the values that are valid are worth telling in the same breath: take the invalid ones out and look.
  const faulty = new Set<string>();
  const problems = parsed.error.issues.flatMap((issue) => {
    const keys = issue.code === "unrecognized_keys" ? issue.keys.map((key) => [...issue.path, key]) : [issue.path];
    for (const key of keys) {
      faulty.add(key.join("."));
      remove(merged, key);
    }
    return explain(issue);
  });
  const rest = configSchema.safeParse(merged, { reportInput: true });
  if (rest.success) {
    for (const { keys, reason } of conflicts(rest.data))
      if (!keys.some((key) => faulty.has(key))) problems.push(reason);
  }
  throw new ConfigError(problems);
}

/**
 * Reads a config file: a JSON object with any part of the keys.
 *
 * @throws ConfigError when it cannot be read or is not a JSON object
 */
export function readConfigFile(file: string): Json {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new ConfigError([`Expected a readable config file but received ${file} (${(error as Error).message})`]);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new ConfigError([`Expected JSON in ${file} but received something else (${(error as Error).message})`]);
  }
  if (!isObject(value)) throw new ConfigError([`Expected a JSON object in ${file} but received ${show(value)}`]);
  return value;
}

/**
 * Parses `--set` assignments such as `branch.count=5`. The value is JSON where it parses as JSON, else a string.
 *
 * @throws ConfigError for an assignment without a key or an equals sign
 */
export function parseAssignments(assignments: readonly string[]): Json {
  const values: Json = {};
  const problems: string[] = [];
  for (const assignment of assignments) {
    const match = /^([A-Za-z][\w.]*)=(.*)$/s.exec(assignment);
    if (match === null) {
      problems.push(`Expected key=value for --set, such as branch.count=5, but received ${show(assignment)}`);
      continue;
    }
    const keys = match[1]!.split(".");
    const leaf = keys.pop()!;
    let at = values;
    for (const key of keys) {
      if (!isObject(at[key])) at[key] = {};
      at = at[key] as Json;
    }
    at[leaf] = parseValue(match[2]!);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return values;
}

/** Names the keys in which two configs differ, as `a.b`. */
export function differingKeys(a: unknown, b: unknown, prefix = ""): string[] {
  if (isObject(a) && isObject(b)) {
    const keys = new Set([...Object.keys(a), ...Object.keys(b)]);
    return [...keys].flatMap((key) => differingKeys(a[key], b[key], prefix === "" ? key : `${prefix}.${key}`));
  }
  return JSON.stringify(a) === JSON.stringify(b) ? [] : [prefix];
}

function parseValue(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

function merge(target: Json, source: Json): void {
  for (const [key, value] of Object.entries(source)) {
    if (value === undefined) continue;
    const own = Object.hasOwn(target, key) ? target[key] : undefined;
    if (isObject(value)) {
      const nested: Json = isObject(own) ? own : {};
      merge(nested, value);
      define(target, key, nested);
    } else {
      define(target, key, value);
    }
  }
}

/** Assigns as an own property: `__proto__` in a JSON file stays a key, and an unknown one. */
function define(target: Json, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, enumerable: true, writable: true, configurable: true });
}

function remove(target: Json, path: readonly PropertyKey[]): void {
  // An element of a list stands for its whole list.
  const end = path.findIndex((key) => typeof key === "number");
  const keys = (end < 0 ? path : path.slice(0, end)).map(String);
  const leaf = keys.pop();
  let at: unknown = target;
  for (const key of keys) at = isObject(at) ? at[key] : undefined;
  if (leaf !== undefined && isObject(at)) Reflect.deleteProperty(at, leaf);
}

function explain(issue: z.core.$ZodIssue): string[] {
  const key = issue.path.map(String).join(".");
  const received = show(issue.input);
  switch (issue.code) {
    case "unrecognized_keys":
      return issue.keys.map((unknown) => {
        const full = [...issue.path.map(String), unknown].join(".");
        const near = nearest(full, unknown);
        return `Unknown key ${full}${near === undefined ? "" : `; did you mean ${near}?`}`;
      });
    case "invalid_type":
      return [
        `Expected ${issue.expected === "int" ? "a whole number" : withArticle(issue.expected)} for ${key} but received ${received}`,
      ];
    case "too_small": {
      if (issue.origin === "array" || issue.origin === "string") return [`Expected ${key} not to be empty`];
      return [
        `Expected ${issue.inclusive === false ? "more than" : "at least"} ${issue.minimum} for ${key} but received ${received}`,
      ];
    }
    case "too_big":
      return [
        `Expected ${issue.inclusive === false ? "less than" : "at most"} ${issue.maximum} for ${key} but received ${received}`,
      ];
    case "invalid_value":
      return [`Expected ${issue.values.map(String).join(" or ")} for ${key} but received ${received}`];
    case "invalid_union":
      return [`Expected a name, a file or a list of prompts for ${key} but received ${received}`];
    case "not_multiple_of":
      return [`Expected a multiple of ${issue.divisor} for ${key} but received ${received}`];
    case "invalid_format":
    case "invalid_key":
    case "invalid_element":
    case "custom":
      return [`${issue.message} for ${key} but received ${received}`];
  }
}

const withArticle = (type: string): string => (/^[aeio]/.test(type) ? `an ${type}` : `a ${type}`);

function show(value: unknown): string {
  const text = value === undefined ? "nothing" : ((JSON.stringify(value) as string | undefined) ?? typeof value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

/** All keys of the schema as `a.b`, sections and leaves. */
export function configKeys(): string[] {
  return Object.entries(configSchema.shape).flatMap(([section, schema]) => {
    const inner = unwrap(schema);
    return inner instanceof z.ZodObject
      ? [section, ...Object.keys(inner.shape).map((key) => `${section}.${key}`)]
      : [section];
  });
}

/** The schema below defaults and nullability. */
export function unwrap(schema: unknown): unknown {
  let at = schema;
  while (at instanceof z.ZodDefault || at instanceof z.ZodPrefault || at instanceof z.ZodNullable) at = at.unwrap();
  return at;
}

/** The known key that is meant: the same name elsewhere, or the fewest typing errors away. */
function nearest(full: string, leaf: string): string | undefined {
  const keys = configKeys();
  const elsewhere = keys.filter((key) => key.split(".").pop()!.toLowerCase() === leaf.toLowerCase());
  if (elsewhere.length === 1) return elsewhere[0];
  const scored = keys
    .map((key) => ({ key, distance: Math.min(edits(key, full), edits(key.split(".").pop()!, leaf) + 1) }))
    .sort((a, b) => a.distance - b.distance);
  return scored[0] !== undefined && scored[0].distance <= Math.max(2, leaf.length / 3) ? scored[0].key : undefined;
}

/** Levenshtein distance, ignoring case. */
function edits(a: string, b: string): number {
  const [from, to] = [a.toLowerCase(), b.toLowerCase()];
  let row = Array.from({ length: to.length + 1 }, (_, j) => j);
  for (let i = 1; i <= from.length; i++) {
    const next = [i];
    for (let j = 1; j <= to.length; j++) {
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (from[i - 1] === to[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[to.length]!;
}
