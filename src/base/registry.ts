/**
 * A registry: the named entries of one joint of the system (rewards, objectives, schedulers, models). The project's own
 * entries and a user's plugins come in by the same door, and the config's schema, its documentation, error texts and
 * help are made from what is in it.
 */
import { z } from "zod";
import { InputError } from "./errors.js";
import { nearest } from "./nearest.js";
import { listOf } from "./show.js";

/** What every entry says of itself. */
export interface Entry<O extends z.ZodObject = z.ZodObject> {
  /** As a config writes it, in kebab case. */
  readonly name: string;
  /** One line for help texts and docs/config.md. */
  readonly summary: string;
  /** The entry's own keys in a config, each with a default or optional, and a description. */
  readonly options: O;
}

/** An entry's part of a config: its name, and its options. */
export type Named = { readonly name: string } & Readonly<Record<string, unknown>>;

export class Registry<E extends Entry> {
  readonly #entries = new Map<string, E>();

  /** @param kind what is registered, in the singular and lower case: "reward" */
  constructor(readonly kind: string) {}

  /**
   * Adds an entry.
   *
   * @returns the entry, so that a module can register and export it in one statement
   * @throws InputError for a name that is taken by another entry, or is none
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

  /** @throws InputError naming the entries that there are, and the one that is probably meant */
  get(name: string): E {
    const found = this.#entries.get(name);
    if (found !== undefined) return found;
    const near = nearest(name, this.names());
    const hint = near === undefined ? "" : `; did you mean ${near}?`;
    throw new InputError(`Expected ${listOf(this.names())} for the ${this.kind} but received ${name}${hint}`);
  }

  find(name: string): E | undefined {
    return this.#entries.get(name);
  }

  names(): string[] {
    return [...this.#entries.keys()];
  }

  entries(): E[] {
    return [...this.#entries.values()];
  }

  /** The schema of `{ name, ...options }` for every entry there is now; unknown keys are refused. */
  schema(common: z.ZodRawShape = {}): z.ZodType<Named> {
    const forms = this.entries().map(({ name, options }) =>
      z.strictObject({ name: z.literal(name), ...common, ...options.shape }),
    );
    return z.discriminatedUnion("name", forms as unknown as [z.ZodObject]) as unknown as z.ZodType<Named>;
  }
}

/** Whether an option is an object that passes over misspelt keys in silence. */
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

/** The options of an entry, with its defaults, out of its part of a config. */
export function optionsOf<O extends z.ZodObject>(entry: { readonly options: O }, named: Named): z.output<O> {
  const own = Object.keys(entry.options.shape).filter((key) => named[key] !== undefined);
  return entry.options.parse(Object.fromEntries(own.map((key) => [key, named[key]])));
}
