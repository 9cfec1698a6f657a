/** Turns zod's issues into sentences: what was expected for which key, and what was received. */
import type { z } from "zod";
import { isJsonObject } from "../../base/files.js";
import { edits, nearest as nearestName } from "../../base/nearest.js";
import type { Entry, Registry } from "../../base/registry.js";
import { listOf, show } from "../../base/show.js";
import { registries } from "./sections.js";
import { configKeys } from "./walk.js";

/** Sentences for one problem that zod found. */
export function explain(issue: z.core.$ZodIssue): string[] {
  const key = issue.path.map(String).join(".");
  const received = show(issue.input, 60);
  switch (issue.code) {
    case "unrecognized_keys":
      return issue.keys.map((unknown) => {
        const full = [...issue.path.map(String), unknown].join(".");
        const entry = isJsonObject(issue.input) ? issue.input["name"] : undefined;
        const others = entriesWith(unknown, key);
        if (typeof entry === "string" && others.length > 0) {
          return `Unknown key ${full} of ${entry}; set ${key}.name to ${listOf(others)} for it`;
        }
        const near = nearest(full, unknown);
        return `Unknown key ${full}${near === undefined ? "" : `; did you mean ${near}?`}`;
      });
    case "invalid_type":
      if (typeof issue.input === "number" && !Number.isFinite(issue.input)) {
        return [`Expected a finite number for ${key} but received ${received}`];
      }
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
    case "invalid_union": {
      const registry = registryOf(key);
      if (registry !== undefined) return [unknownEntry(registry, issue.input)];
      return [`Expected a name, a file or a list of prompts for ${key} but received ${received}`];
    }
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

/** The known key that was probably meant: the same name in another section, its initials, or the fewest edits. */
function nearest(full: string, leaf: string): string | undefined {
  const keys = configKeys();
  const [, index] = /^rewards\.(\d+)\./.exec(full) ?? [];
  const inList = (key: string | undefined): string | undefined =>
    index === undefined ? key : key?.replace(/^rewards\./, `rewards.${index}.`);
  const elsewhere = keys.filter((key) => key.split(".").pop()!.toLowerCase() === leaf.toLowerCase());
  if (elsewhere.length === 1) return inList(elsewhere[0]);
  // "lr" is train.learningRate. One letter is no abbreviation.
  const abbreviated = keys.filter((key) => leaf.length > 1 && initials(key) === leaf.toLowerCase());
  if (abbreviated.length === 1) return inList(abbreviated[0]);
  const scored = keys
    .map((key) => ({ key, distance: Math.min(edits(key, full), edits(key.split(".").pop()!, leaf) + 1) }))
    .sort((a, b) => a.distance - b.distance);
  return scored[0] !== undefined && scored[0].distance <= Math.max(2, leaf.length / 3)
    ? inList(scored[0].key)
    : undefined;
}

/** The first letters of a key's words: "lr" for "train.learningRate". */
const initials = (key: string): string =>
  [
    ...key
      .split(".")
      .pop()!
      .matchAll(/^[a-z]|[A-Z0-9]/g),
  ]
    .join("")
    .toLowerCase();

/** The registry behind a key such as "objective.name" or "rewards.0". */
function registryOf(key: string): Registry<Entry> | undefined {
  const [section] = key.split(".") as [string];
  return Object.hasOwn(registries, section) ? registries[section as keyof typeof registries] : undefined;
}

/** The entries that have an option, of the registry behind `key`. */
const entriesWith = (option: string, key: string): string[] =>
  (registryOf(key)?.entries() ?? [])
    .filter(({ options }) => Object.hasOwn(options.shape, option))
    .map(({ name }) => name);

function unknownEntry(registry: Registry<Entry>, input: unknown): string {
  const name = isJsonObject(input) ? input["name"] : input;
  const near = typeof name === "string" ? nearestName(name, registry.names()) : undefined;
  const hint = near === undefined ? "" : `; did you mean ${near}?`;
  return `Expected ${listOf(registry.names())} for the ${registry.kind} but received ${show(name, 60)}${hint}`;
}
