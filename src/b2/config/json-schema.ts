/** The config as a JSON Schema, for editors: completion, descriptions and checks while a config file is written. */
import { z } from "zod";
import { isJsonObject, type JsonObject } from "../../base/files.js";
import { configSchema } from "./schema.js";
import { defaultNames } from "./sections.js";

/** The published schema of the config without plugins, in the package's root; a test holds it up to date. */
export const SCHEMA_FILE = "config.schema.json";

/** What `legacy.ts` takes for a reward besides its entry: `brightness`, `clip:<folder>`, `./mine.js`. */
const SHORT_REWARDS: readonly JsonObject[] = [
  { type: "string", description: "The name of a reward, `clip:<model>`, or the path of a module." },
  {
    type: "object",
    properties: { name: { type: "string", pattern: String.raw`^clip:|[/\\]|\.[cm]?[jt]s$` } },
    required: ["name"],
  },
];

/**
 * The JSON Schema (draft 7, which editors know best) of what a config file may hold, entries of loaded plugins included:
 * any part of the keys, and the short notations.
 */
export function configJsonSchema(): JsonObject {
  const schema = z.toJSONSchema(configSchema(), {
    io: "input",
    target: "draft-7",
    unrepresentable: "any",
    override: ({ jsonSchema }) => void delete jsonSchema["affects"],
  }) as { readonly $schema: string; readonly properties: Record<string, JsonObject> };
  const { properties } = schema;
  const { items, ...rewards } = properties["rewards"]!;
  return {
    ...schema,
    title: "B2-DiffuRL config",
    properties: {
      $schema: { type: "string" },
      ...properties,
      rewards: short(rewards, [
        { type: "string" },
        { type: "array", minItems: 1, items: { anyOf: [...SHORT_REWARDS, items] } },
      ]),
      interval: short(properties["interval"]!, [{ enum: ["fixed", "measured"] }]),
      ...Object.fromEntries(Object.keys(defaultNames).map((section) => [section, withoutName(properties[section]!)])),
    },
  };
}

/** A section that has short notations as well. */
function short({ description, default: usual, ...long }: JsonObject, notations: readonly JsonObject[]): JsonObject {
  const own = Object.hasOwn(long, "items") || long["type"] === "object" ? [long] : [];
  return { description, default: usual, anyOf: [...notations, ...own] };
}

/** A section whose entry may be named by a preset: its options are known, but the name may be left out. */
function withoutName(section: unknown): unknown {
  if (Array.isArray(section)) return section.map(withoutName);
  if (!isJsonObject(section)) return section;
  const { oneOf, anyOf, ...rest } = section;
  delete rest["required"];
  const forms = (oneOf ?? anyOf) as readonly unknown[] | undefined;
  return { ...rest, ...(forms && { anyOf: forms.map(withoutName) }) };
}
