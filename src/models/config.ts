/**
 * Model configs: JSON from a folder, checked against a schema that lists every key the code honours and, for those it
 * does not, the one value that means "off". What is left over is an error, because a config that is half ignored
 * gives a model that is quietly wrong.
 */
import { z } from "zod";
import { InputError } from "../base/errors.js";
import type { JsonObject } from "../base/files.js";
import { show } from "../base/show.js";

/** A config that asks for what the code does not have. */
export class ModelConfigError extends InputError {
  override readonly name = "ModelConfigError";
}

/**
 * Widths, and numbers of layers. Beyond these bounds a number is damaged, and would fill the memory with layers or
 * overflow a shape before any weights are compared with it.
 */
export const whole = z
  .int()
  .positive()
  .max(2 ** 20);
export const layerCount = z.int().positive().max(1000);

/**
 * Checks a config. Keys that begin with an underscore (`_class_name`, `_name_or_path`) are left out.
 *
 * @param source what to name in the error: a file, or the model
 * @throws ModelConfigError with a sentence for every key that is unknown or has a value the code does not honour
 */
export function parseConfig<S extends z.ZodType>(schema: S, config: object, source: string): z.output<S> {
  const given = Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith("_")));
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  const sentences = result.error.issues.flatMap((issue) => sentencesOf(issue, given));
  throw new ModelConfigError(`${source}: ${sentences.join("\n  ")}`);
}

/** @throws ModelConfigError with these sentences about a source, if there are any */
export function refuse(source: string, problems: readonly string[]): void {
  if (problems.length > 0) throw new ModelConfigError(`${source}: ${problems.join("\n  ")}`);
}

function sentencesOf(issue: z.core.$ZodIssue, config: JsonObject): string[] {
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `Expected no key ${key} but received ${show(config[key])}`);
  }
  const received = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], config);
  return [`Expected ${expectedBy(issue)} for ${issue.path.join(".")} but received ${show(received)}`];
}

/** zod: "Invalid input: expected number, received string"; ours ends in the value itself. */
function expectedBy(issue: z.core.$ZodIssue): string {
  if (issue.code === "invalid_union" && issue.errors.length > 0) {
    return [...new Set(issue.errors.map(([first]) => expectedBy(first!)))].join(" or ");
  }
  return /expected ([^,]*)/.exec(issue.message)?.[1] ?? issue.message;
}

/** A key of a feature that the code does not have: only the values that switch it off are accepted, or no key. */
export function off<const T extends readonly (string | number | boolean | null)[]>(...values: T) {
  return z.literal(values as unknown as [T[number], ...T[number][]]).optional();
}
