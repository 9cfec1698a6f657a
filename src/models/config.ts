/**
 * Model configs: JSON from a folder, checked against a schema that lists every key the code honours and, for those it
 * does not, the one value that means "off". What is left over is an error, because a config that is half ignored
 * gives a model that is quietly wrong.
 */
import { readFileSync } from "node:fs";
import { z } from "zod";

/** A config that asks for what the code does not have. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/**
 * Reads a JSON object.
 *
 * @throws ConfigError naming the file when it is missing or not a JSON object
 */
export function readJsonObject(file: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new ConfigError(`${file}: Expected a JSON file but received: ${cause instanceof Error ? cause.message : ""}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ConfigError(`${file}: Expected a JSON object but received ${JSON.stringify(value)}`);
  }
  return value as Record<string, unknown>;
}

/**
 * Checks a config. Keys that begin with an underscore (`_class_name`, `_name_or_path`) are left out.
 *
 * @param source what to name in the error: a file, or the model
 * @throws ConfigError with a sentence for every key that is unknown or has a value the code does not honour
 */
export function parseConfig<S extends z.ZodType>(schema: S, config: object, source: string): z.output<S> {
  const given = Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith("_")));
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  const sentences = result.error.issues.flatMap((issue) => sentencesOf(issue, given));
  throw new ConfigError(`${source}: ${sentences.join("\n  ")}`);
}

/** @throws ConfigError with these sentences about a source, if there are any */
export function refuse(source: string, problems: readonly string[]): void {
  if (problems.length > 0) throw new ConfigError(`${source}: ${problems.join("\n  ")}`);
}

function sentencesOf(issue: z.core.$ZodIssue, config: Record<string, unknown>): string[] {
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `Expected no key ${key} but received ${JSON.stringify(config[key])}`);
  }
  const received = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], config);
  // zod: "Invalid input: expected number, received string"; ours ends in the value itself.
  const expected = /expected ([^,]*)/.exec(issue.message)?.[1] ?? issue.message;
  return [`Expected ${expected} for ${issue.path.join(".")} but received ${JSON.stringify(received) ?? "nothing"}`];
}

/** A key of a feature that the code does not have: only the values that switch it off are accepted, or no key. */
export function off<const T extends readonly (string | number | boolean | null)[]>(...values: T) {
  return z.literal(values as unknown as [T[number], ...T[number][]]).optional();
}
