/** Values in messages: short, and with control characters escaped, since they come from files that nobody has read. */

/** A value as JSON, cut to `length` characters. */
export function show(value: unknown, length = 200): string {
  const text = value === undefined ? "nothing" : ((JSON.stringify(value) as string | undefined) ?? typeof value);
  return text.length > length ? `${text.slice(0, length - 3)}...` : text;
}

/** A list of numbers as [2, 3]; "none" where there is no tensor to have a shape. */
export const showShape = (shape: readonly (number | string)[] | undefined): string =>
  shape === undefined ? "none" : `[${shape.join(", ")}]`;

/** Words as a sentence has them: "a, b or c". */
export function listOf(words: readonly string[], last = "or"): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} ${last} ${words.at(-1)}`;
}
