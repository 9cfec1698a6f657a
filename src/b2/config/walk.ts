/** Walks the schema: all keys, the type beneath defaults and nullability, and what a key affects. */
import { z } from "zod";
import { configSchema, rewardShape, type Affects } from "./schema.js";
import { registries } from "./sections.js";

/** The schema without its default and nullable wrappers. */
export function unwrap(schema: unknown): unknown {
  let at = schema;
  while (at instanceof z.ZodDefault || at instanceof z.ZodPrefault || at instanceof z.ZodNullable) at = at.unwrap();
  return at;
}

/** The keys of every section, including the options of registered entries. */
function sections(): Map<string, readonly string[]> {
  const own = Object.entries(configSchema().shape).map(([section, schema]): [string, readonly string[]] => {
    const inner = unwrap(schema);
    return [section, inner instanceof z.ZodObject ? Object.keys(inner.shape) : []];
  });
  const named = Object.entries(registries).map(([section, registry]): [string, readonly string[]] => {
    const options = registry.entries().flatMap((entry) => Object.keys(entry.options.shape));
    return [section, ["name", ...new Set(options)]];
  });
  return new Map([...own, ...named]);
}

/** All sections and keys; keys as `a.b`. */
export function configKeys(): string[] {
  return [...sections()].flatMap(([section, keys]) => [section, ...keys.map((key) => `${section}.${key}`)]);
}

/** How a schema says that its key affects results; undefined for keys that decide what is computed. */
export const affectsBy = (schema: unknown): Affects | undefined =>
  (schema as z.ZodType | undefined)?.meta()?.["affects"] as Affects | undefined;

/**
 * How a key affects results; undefined for keys that decide what is computed.
 *
 * @param config which says whose options `rewards.0.url` and the like are
 */
export function affectsOf(key: string, config?: unknown): Affects | undefined {
  const [section, leaf] = key.split(".") as [string, string?];
  if (Object.hasOwn(registries, section)) return affectsOfOption(key, config);
  const schema = (configSchema().shape as Record<string, z.ZodType>)[section];
  const inner = unwrap(schema);
  const at = leaf !== undefined && inner instanceof z.ZodObject ? (inner.shape as z.ZodRawShape)[leaf] : schema;
  return affectsBy(at);
}

/** The same for a key of a registered entry: `objective.name`, `rewards.0.timeout`. */
function affectsOfOption(key: string, config: unknown): Affects | undefined {
  const path = key.split(".");
  const [section, leaf] = [path[0] as keyof typeof registries, path.at(-1)!];
  let entry = config;
  for (const step of path.slice(0, -1)) entry = (entry as Record<string, unknown> | null | undefined)?.[step];
  const name = (entry as { readonly name?: unknown } | null | undefined)?.name;
  const own = typeof name === "string" ? (registries[section].find(name)?.options.shape as z.ZodRawShape) : undefined;
  const shared = section === "rewards" ? (rewardShape as z.ZodRawShape) : {};
  return affectsBy(own?.[leaf] ?? shared[leaf]);
}
