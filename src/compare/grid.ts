/**
 * The grid of a comparison: settings times seeds, and how long each run trains. It is plain data, which `b2 compare`
 * keeps as `compare.json` in the comparison's folder.
 */
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import { z } from "zod";
import { presets, type PresetName } from "../b2/config/presets.js";
import { parseAssignments, readConfigFile } from "../b2/config/resolve.js";
import { InputError } from "../base/errors.js";
import { writeJson } from "../base/files.js";
import { listOf, show } from "../base/show.js";

const GRID_FORMAT = "b2-compare";
const GRID_VERSION = 1;
const DEFAULT_EVALUATIONS = 8;

/** Names of settings are names of folders. */
const NAME = /^[A-Za-z0-9][\w.+-]*$/;

const count = (): z.ZodNumber => z.int().min(1);
const values = (): z.ZodType<Record<string, unknown>> => z.record(z.string(), z.unknown());

const partSchema = z.union([z.string().min(1), values()]);

const gridSchema = z.strictObject({
  format: z.literal(GRID_FORMAT).default(GRID_FORMAT),
  version: z.int().max(GRID_VERSION).default(GRID_VERSION),
  /** By name, in the order of tables and legends: presets and config values, later ones override earlier ones. */
  settings: z.record(
    z.string().regex(NAME, "Expected a name of letters, digits, dots, dashes, underscores and plus signs"),
    z.union([partSchema, z.array(partSchema)]).transform((parts) => (Array.isArray(parts) ? parts : [parts])),
  ),
  seeds: z
    .array(
      z
        .int()
        .min(0)
        .max(2 ** 32 - 1),
    )
    .min(1)
    .default([1, 2, 3, 4]),
  /** How long each run trains; null: as many `stages` as its setting has. */
  budget: z
    .union([
      z.strictObject({ stages: count() }),
      z.strictObject({ queries: count() }),
      z.strictObject({ passes: count() }),
    ])
    .nullable()
    .default(null),
  /** Evaluations of each run, evenly spread; the one before training is not counted. */
  evaluations: count().default(DEFAULT_EVALUATIONS),
  /** What the others are compared with; null: the first setting. */
  baseline: z.string().nullable().default(null),
  /** Config values of all settings, which override their own. */
  common: values().default({}),
  /** Threads of each run. null: set when the comparison begins. */
  threads: count().nullable().default(null),
});

/** A grid, see the top of this file. */
export type Grid = z.output<typeof gridSchema>;

/** A preset's name, or config values. */
export type Part = Grid["settings"][string][number];

/** Where a comparison keeps its grid. */
export const gridFile = (folder: string): string => join(folder, "compare.json");

/**
 * Reads a grid, of a comparison or written by hand.
 *
 * @throws InputError naming every problem of the file
 */
export function readGrid(file: string): Grid {
  const { data, error } = gridSchema.safeParse(readConfigFile(file));
  if (error !== undefined) throw new InputError(`${file}: ${z.prettifyError(error)}`);
  return checked({ ...data, settings: withFiles(data.settings) }, file);
}

/** Keeps the grid of a comparison. */
export function writeGrid(folder: string, grid: Grid): void {
  writeJson(gridFile(folder), grid);
}

/** What the command line says about a grid; what it does not say stays. */
export type GridChanges = { readonly [key in keyof Grid]?: Grid[key] | undefined };

/**
 * A grid with changes: settings are added or replaced by name, config values of all settings are merged, everything
 * else is replaced.
 *
 * @throws InputError for a grid without settings, or whose baseline is none of them
 */
export function changeGrid(grid: Grid | undefined, changes: GridChanges): Grid {
  const before = grid ?? gridSchema.parse({ settings: {} });
  const given = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined));
  return checked(
    {
      ...before,
      ...given,
      settings: { ...before.settings, ...changes.settings },
      common: { ...before.common, ...changes.common },
    },
    "the comparison",
  );
}

/**
 * Parses settings as the command line names them: `demo+ddpo`, `slow=demo+ddpo train.learningRate=1e-4`, `mine.json`.
 * The first word names presets and config files, joined by plus signs, after an optional name; config values follow.
 *
 * @throws InputError for a setting without a name, two of one name, unknown presets and unreadable files
 */
export function parseSettings(texts: readonly string[]): Grid["settings"] {
  const settings: Grid["settings"] = {};
  for (const text of texts) {
    const [, given, sources = "", assignments = ""] =
      /^(?:([^=\s]+)=)?(\S+)(?:\s+(.*\S))?\s*$/s.exec(text.trim()) ?? [];
    const name = given ?? (assignments === "" ? sources.split("+").map(bareName).join("+") : undefined);
    if (name === undefined || !NAME.test(name)) {
      throw new InputError(
        `Expected a setting such as demo+ddpo, or name=demo+ddpo train.learningRate=1e-4, but received ${show(text, 80)}`,
      );
    }
    if (Object.hasOwn(settings, name))
      throw new InputError(`Expected settings of different names but received ${name} twice`);
    // A value may hold spaces, but no space is followed by a key and an equals sign.
    const values = assignments === "" ? [] : [parseAssignments(assignments.split(/\s+(?=[A-Za-z][\w.]*=)/))];
    settings[name] = [...sources.split("+").map(readPart), ...values];
  }
  return settings;
}

/** The config layers of a setting, from presets to the values of all settings. */
export function layersOf({ settings, common }: Grid, setting: string): object[] {
  return [...settings[setting]!.map((part) => (typeof part === "string" ? presets[part as PresetName] : part)), common];
}

/** The setting that the others are compared with. */
export const baselineOf = ({ baseline, settings }: Grid): string => baseline ?? Object.keys(settings)[0]!;

/** Parts written in a file by hand may name config files. */
function withFiles(settings: Grid["settings"]): Grid["settings"] {
  const read = (part: Part): Part[] => (typeof part === "string" ? part.split("+").map(readPart) : [part]);
  return Object.fromEntries(Object.entries(settings).map(([name, parts]) => [name, parts.flatMap(read)]));
}

/** A preset stays a name; a config file is read, so that the comparison does not depend on it later. */
function readPart(source: string): Part {
  if (Object.hasOwn(presets, source)) return source;
  if (/[/\\]|\.(json|ya?ml)$/.test(source) || existsSync(source)) return readConfigFile(source);
  throw new InputError(
    `Expected a preset (${listOf(Object.keys(presets))}) or a config file but received ${show(source, 80)}`,
  );
}

const bareName = (source: string): string => basename(source).replace(/\.(json|ya?ml)$/, "");

function checked(grid: Grid, where: string): Grid {
  const names = Object.keys(grid.settings);
  if (names.length === 0) {
    throw new InputError(
      `Expected settings to compare, such as demo demo+ddpo, or a --grid file, but received none for ${where}`,
    );
  }
  if (grid.baseline !== null && !names.includes(grid.baseline)) {
    throw new InputError(
      `Expected one of ${listOf(names)} for the baseline of ${where} but received ${show(grid.baseline)}`,
    );
  }
  if (new Set(grid.seeds).size < grid.seeds.length) {
    throw new InputError(`Expected different seeds for ${where} but received ${grid.seeds.join(", ")}`);
  }
  return grid;
}
