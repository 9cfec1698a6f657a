/**
 * Model configs: JSON from a folder, checked against a schema that lists every supported key and, for unsupported
 * features, the value that means "off". Anything else is an error, because a partly ignored config gives a silently
 * wrong model.
 */
import { z } from "zod";
import { InputError } from "../base/errors.js";
import type { JsonObject } from "../base/files.js";
import { show, showProblems } from "../base/show.js";

/** A config has a key or a value that is not supported. */
export class ModelConfigError extends InputError {
  override readonly name = "ModelConfigError";
}

/**
 * Bounds on widths and layer counts. A damaged number beyond them would exhaust memory or overflow a shape before it is
 * compared with any weights.
 */
export const whole = z
  .int()
  .positive()
  .max(2 ** 20);
export const layerCount = z.int().positive().max(1000);

/**
 * Checks a config. Keys that begin with an underscore (`_class_name`, `_name_or_path`) are ignored.
 *
 * @param source what to name in the error: a file, or the model
 * @throws ModelConfigError with a sentence for every key that is unknown or has an unsupported value
 */
export function parseConfig<S extends z.ZodType>(schema: S, config: object, source: string): z.output<S> {
  const given = Object.fromEntries(Object.entries(config).filter(([key]) => !key.startsWith("_")));
  const result = schema.safeParse(given);
  if (result.success) return result.data;
  const sentences = result.error.issues.flatMap((issue) => sentencesOf(issue, given));
  throw new ModelConfigError(`${source}: ${showProblems(sentences)}`);
}

/** Throws if there are problems. @throws ModelConfigError with these sentences about a source */
export function refuse(source: string, problems: readonly string[]): void {
  if (problems.length > 0) throw new ModelConfigError(`${source}: ${showProblems(problems)}`);
}

function sentencesOf(issue: z.core.$ZodIssue, config: JsonObject): string[] {
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((key) => `Expected no key ${key} but received ${show(config[key])}`);
  }
  const received = issue.path.reduce<unknown>((value, key) => (value as Record<PropertyKey, unknown>)?.[key], config);
  return [`Expected ${expectedBy(issue)} for ${issue.path.join(".")} but received ${show(received)}`];
}

/**
 * Takes the expectation from zod's "Invalid input: expected number, received string"; our message ends with the value.
 */
function expectedBy(issue: z.core.$ZodIssue): string {
  if (issue.code === "invalid_union" && issue.errors.length > 0) {
    return [...new Set(issue.errors.map(([first]) => expectedBy(first!)))].join(" or ");
  }
  return /expected ([^,]*)/.exec(issue.message)?.[1] ?? issue.message;
}

/** A key of an unsupported feature: it may be missing, or have a value that turns the feature off. */
export function off<const T extends readonly (string | number | boolean | null)[]>(...values: T) {
  return z.literal(values as unknown as [T[number], ...T[number][]]).optional();
}
