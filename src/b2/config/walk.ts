/** Walks the schema: all keys, the type beneath defaults and nullability, and what a key affects. */
import { z } from "zod";
import { configSchema, type Affects } from "./schema.js";
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

/** How a key affects results; undefined for keys that decide what is computed. */
export function affectsOf(key: string): Affects | undefined {
  const [section, leaf] = key.split(".") as [string, string?];
  const schema = (configSchema().shape as Record<string, z.ZodType>)[section];
  const inner = unwrap(schema);
  const at = leaf !== undefined && inner instanceof z.ZodObject ? (inner.shape as z.ZodRawShape)[leaf] : schema;
  return (at as z.ZodType | undefined)?.meta()?.["affects"] as Affects | undefined;
}
