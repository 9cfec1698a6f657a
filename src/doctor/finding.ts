/** What a check of the machine found, and how texts that other programs wrote are shown. */
import { printable } from "../base/show.js";

/** "absent" is what a machine need not have, such as a GPU; with a "problem" nothing can be computed. */
export type State = "good" | "absent" | "warning" | "problem";

/** The answer of a check. */
export interface Answer {
  readonly state: State;
  /** In words, on one line. */
  readonly message: string;
  /** The command that mends it, or a sentence where there is no single one. */
  readonly fix?: string;
  /** The same as data, for `--json`. */
  readonly facts?: Readonly<Record<string, unknown>>;
}

export interface Finding extends Answer {
  /** What was looked at, as "libtorch". */
  readonly check: string;
}

export const good = (message: string, facts?: Answer["facts"]): Answer => answer("good", message, undefined, facts);
export const absent = (message: string, facts?: Answer["facts"]): Answer => answer("absent", message, undefined, facts);
export const warning = (message: string, fix?: string, facts?: Answer["facts"]): Answer =>
  answer("warning", message, fix, facts);
export const problem = (message: string, fix?: string, facts?: Answer["facts"]): Answer =>
  answer("problem", message, fix, facts);

function answer(state: State, message: string, fix: string | undefined, facts: Answer["facts"]): Answer {
  return { state, message, ...(fix !== undefined && { fix }), ...(facts !== undefined && { facts }) };
}

/** `printable` for every text of a value, because environment variables and programs can hold any. */
export function printableIn<T>(value: T): T {
  if (typeof value === "string") return printable(value) as T;
  if (Array.isArray(value)) return value.map((item: unknown) => printableIn(item)) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [printable(key), printableIn<unknown>(item)]),
  ) as T;
}

/** Bytes in GB (powers of ten), as disks and PyTorch's users count. */
export const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(1)} GB`;
