/**
 * Formats values for messages: short, and with control characters escaped, because they may come from untrusted files.
 */

/** A value as JSON, cut to `length` characters. */
export function show(value: unknown, length = 200): string {
  const text = value === undefined ? "nothing" : ((JSON.stringify(value) as string | undefined) ?? typeof value);
  return text.length > length ? `${text.slice(0, length - 3)}...` : text;
}

/** A shape as [2, 3]; "none" for undefined. */
export const showShape = (shape: readonly (number | string)[] | undefined): string =>
  shape === undefined ? "none" : `[${shape.join(", ")}]`;

/** Joins words as in a sentence: "a, b or c". */
export function listOf(words: readonly string[], last = "or"): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`;
}
