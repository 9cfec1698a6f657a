/**
 * A registry of named entries of one kind: rewards, objectives, schedulers or model families. Built-in entries and
 * plugins register in the same way, and the config schema, its documentation, error messages and help are derived from
 * the entries.
 */
import { z } from "zod";
import { InputError } from "./errors.js";
import { nearest } from "./nearest.js";
import { listOf } from "./show.js";

/** What every entry declares. */
export interface Entry<O extends z.ZodObject = z.ZodObject> {
  /** Its name in configs, in kebab case. */
  readonly name: string;
  /** One line for help texts and docs/config.md. */
  readonly summary: string;
  /** The entry's own keys in a config, each with a default or optional, and a description. */
  readonly options: O;
}

/** How a config refers to an entry: its name and its options. */
export type Named = { readonly name: string } & Readonly<Record<string, unknown>>;

/** Named entries of one kind, see the top of this file. */
export class Registry<E extends Entry> {
  readonly #entries = new Map<string, E>();

  /** @param kind what is registered, in the singular and lower case: "reward" */
  constructor(readonly kind: string) {}

  /**
   * Adds an entry.
   *
   * @returns the entry, so that a module can register and export it in one statement
   * @throws InputError for an invalid name, one that another entry has, or options that are not a strict zod object
   */
  register<T extends E>(entry: T): T {
    const { name } = entry;
    if (typeof name !== "string" || !/^[a-z][a-z0-9-]*$/.test(name)) {
      throw new InputError(
        `Expected a name in kebab case, such as my-${this.kind}, for a ${this.kind} but received ${String(name)}`,
      );
    }
    if (!(entry.options instanceof z.ZodObject)) {
      throw new InputError(`Expected options of the ${this.kind} ${name} to be a z.object of zod 4`);
    }
    const loose = Object.entries(entry.options.shape).find(([, option]) => dropsUnknownKeys(option));
    if (loose !== undefined) {
      throw new InputError(
        `Expected z.strictObject for the option ${loose[0]} of the ${this.kind} ${name}: z.object drops keys that it does not know`,
      );
    }
    const known = this.#entries.get(name);
    if (known !== undefined && known !== entry) {
      throw new InputError(`Expected a new name for a ${this.kind} but received ${name}, which is taken`);
    }
    this.#entries.set(name, entry);
    return entry;
  }

  /** The entry of a name. @throws InputError naming all entries, and the one that was probably meant */
  get(name: string): E {
    const found = this.#entries.get(name);
    if (found !== undefined) return found;
    const near = nearest(name, this.names());
    const hint = near === undefined ? "" : `; did you mean ${near}?`;
    throw new InputError(`Expected ${listOf(this.names())} for the ${this.kind} but received ${name}${hint}`);
  }

  /** The entry of a name; undefined if there is none. */
  find(name: string): E | undefined {
    return this.#entries.get(name);
  }

  /** All names, in the order of registration. */
  names(): string[] {
    return [...this.#entries.keys()];
  }

  /** All entries, in the order of registration. */
  entries(): E[] {
    return [...this.#entries.values()];
  }

  /** The schema of `{ name, ...common, ...options }` for all current entries; unknown keys are refused. */
  schema(common: z.ZodRawShape = {}): z.ZodType<Named> {
    const forms = this.entries().map(({ name, options }) =>
      z.strictObject({ name: z.literal(name), ...common, ...options.shape }),
    );
    return z.discriminatedUnion("name", forms as unknown as [z.ZodObject]) as unknown as z.ZodType<Named>;
  }
}

/** Whether an option is an object schema that silently ignores misspelt keys. */
function dropsUnknownKeys(option: unknown): boolean {
  let at = option;
  while (
    at instanceof z.ZodDefault ||
    at instanceof z.ZodPrefault ||
    at instanceof z.ZodNullable ||
    at instanceof z.ZodOptional
  )
    at = at.unwrap();
  return at instanceof z.ZodObject && at.def.catchall === undefined;
}

/** Parses the options of an entry from its part of a config, and fills in defaults. */
export function optionsOf<O extends z.ZodObject>(entry: { readonly options: O }, named: Named): z.output<O> {
  const own = Object.keys(entry.options.shape).filter((key) => named[key] !== undefined);
  return entry.options.parse(Object.fromEntries(own.map((key) => [key, named[key]])));
}
