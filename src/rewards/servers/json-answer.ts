/** Reads JSON from a server, and the numbers in it. */
import { isNestedTooDeep } from "../../base/files.js";
import { show } from "../../base/show.js";
import { Failure } from "./failure.js";

export const isFiniteNumber = (value: unknown): value is number => typeof value === "number" && Number.isFinite(value);

/** Texts, and what Python's json writes for numbers that JSON has no form for. */
const TEXT_OR_NAN = /"(?:[^"\\]|\\.)*"|-?\b(?:NaN|Infinity)\b/g;

/**
 * The JSON value of an answer. NaN and Infinity become texts, so that the place where they are can be named.
 *
 * @param expected what is expected, for errors
 * @throws Failure for what is no JSON
 */
export function jsonIn(answer: Buffer, expected: string): unknown {
  const text = answer.toString("utf8");
  const value = parsed(text) ?? parsed(withNansAsTexts(text));
  if (value === undefined) {
    throw new Failure(expected, text === "" ? "nothing" : `what is not JSON: ${show(text, 100)}`);
  }
  if (isNestedTooDeep(value)) throw new Failure(expected, "JSON that is nested too deeply");
  return value;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const withNansAsTexts = (text: string): string =>
  text.replaceAll(TEXT_OR_NAN, (found) => (found.startsWith('"') ? found : `"${found}"`));

/**
 * Numbers of an answer, one for each image.
 *
 * @param subjects the images, for errors
 * @param what the numbers are, in the plural: "scores"
 * @throws Failure naming the image at fault
 */
export function numbersIn(values: unknown, subjects: readonly string[], what: string): number[] {
  const list: readonly unknown[] | undefined = Array.isArray(values) ? values : undefined;
  if (list?.length !== subjects.length) {
    const received = list === undefined ? show(values) : `${list.length}`;
    throw new Failure(`${subjects.length} ${what}, one for each image,`, received);
  }
  return list.map((value, i) => {
    if (isFiniteNumber(value)) return value;
    throw new Failure(`a finite number in ${what} for ${subjects[i]},`, show(value));
  });
}
