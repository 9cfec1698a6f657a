/**
 * Formats values for messages: short, and with control characters escaped, because they may come from untrusted files.
 */

/** A value as JSON, cut to `length` characters. */
export function show(value: unknown, length = 200): string {
  const text = visible(textOf(value));
  return text.length > length ? `${text.slice(0, length - 3)}...` : text;
}

/** A value as JSON, which has no words for nothing, functions and numbers without an end. */
function textOf(value: unknown): string {
  if (value === undefined) return "nothing";
  if (typeof value === "number") return String(value);
  return JSON.stringify(value) ?? typeof value;
}

/** Characters that move the cursor, recolour the terminal, or turn the direction of text around. */
const UNPRINTABLE = /[\p{Cc}\p{Zl}\p{Zp}\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/gu;

const escaped = (character: string): string => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;

/** Text of unknown origin on one line of a terminal: control characters become \\u001b and the like. */
export const printable = (text: string): string => text.replaceAll(UNPRINTABLE, escaped);

/**
 * `printable`, line breaks and tabs aside: what a file or a person says must not move the cursor, recolour the terminal,
 * or run from right to left over what follows.
 */
export const visible = (text: string): string =>
  text.replaceAll(UNPRINTABLE, (character) =>
    character === "\n" || character === "\t" ? character : escaped(character),
  );

/** A shape as [2, 3], the first 16 sizes of it; "none" for undefined. */
export const showShape = (shape: readonly (number | string)[] | undefined): string =>
  shape === undefined ? "none" : `[${shape.slice(0, 16).join(", ")}${shape.length > 16 ? ", ..." : ""}]`;

/** Problems on a line each, the first `most` of them: a damaged list may have thousands. */
export function showProblems(problems: readonly string[], separator = "\n  ", most = 100): string {
  const more = problems.length > most ? [`and ${problems.length - most} more`] : [];
  return [...problems.slice(0, most), ...more].join(separator);
}

/** Joins words as in a sentence: "a, b or c". */
export function listOf(words: readonly string[], last = "or"): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`;
}
