/** How the configs of schedulers are checked: a rule for each key, and the names of keys without effect. */
import { InputError } from "../base/errors.js";
import { show } from "../base/show.js";

/** A scheduler config has a key or a value that is not supported. */
export class SchedulerConfigError extends InputError {
  override readonly name = "SchedulerConfigError";
}

/** What a key may have as its value. */
export interface Rule {
  readonly expected: string;
  readonly holds: (value: unknown) => boolean;
}

/** One of these values. */
export const oneOf = (...values: unknown[]): Rule => ({
  expected:
    values.length === 1 ? JSON.stringify(values[0]) : `one of ${values.map((v) => JSON.stringify(v)).join(", ")}`,
  holds: (value) => values.includes(value),
});
/** true or false. */
export const boolean = oneOf(true, false);
/** A whole number, bounds included. */
export const whole = (from: number, to: number): Rule => ({
  expected: `a whole number from ${from} to ${to}`,
  holds: (value) => Number.isInteger(value) && (value as number) >= from && (value as number) <= to,
});
/** A number, bounds excluded. */
export const between = (from: number, to: number): Rule => ({
  expected: `a number between ${from} and ${to}`,
  holds: (value) => typeof value === "number" && value > from && value < to,
});

/** diffusers' class that a config is of, if it says so. */
export function samplerOf(config: object): string | undefined {
  const { _class_name: sampler } = config as { _class_name?: unknown };
  return typeof sampler === "string" ? sampler : undefined;
}

export const isFlowMatching = (sampler: string | undefined): boolean => sampler?.startsWith("FlowMatch") ?? false;

/**
 * A sentence for every key that has no rule, or a value against it. Keys that begin with an underscore are ignored.
 *
 * @param ignored keys that do not concern the scheduler
 */
export function problemsOf(
  config: object,
  rules: Readonly<Record<string, Rule>>,
  ignored: ReadonlySet<string>,
): string[] {
  const known = new Map(Object.entries(rules));
  return Object.entries(config)
    .filter(([key]) => !key.startsWith("_") && !ignored.has(key))
    .flatMap(([key, value]) => {
      const rule = known.get(key);
      if (rule === undefined) return [`Expected no key ${key} but received ${show(value)}`];
      return rule.holds(value) ? [] : [`Expected ${rule.expected} for ${key} but received ${show(value)}`];
    });
}
