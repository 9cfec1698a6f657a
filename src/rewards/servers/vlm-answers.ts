/** What vision-language models answer: the parts of a chat completion, and yes, no and numbers in it. */
import { isJsonObject } from "../../base/files.js";
import { Failure } from "./failure.js";
import { isFiniteNumber, jsonIn } from "./json-answer.js";

/** A token with its log-prob, and the likeliest ones in its place. */
interface Token {
  readonly token: string;
  readonly logprob: number;
  readonly alternatives: readonly { readonly token: string; readonly logprob: number }[];
}

/** One answer. */
export interface ChatChoice {
  readonly text: string;
  /** undefined where the server gives no log-probs. */
  readonly tokens: readonly Token[] | undefined;
}

/**
 * The first choice of a chat completion.
 *
 * @param subject what was asked about, for errors
 * @throws Failure for anything else
 */
export function choiceIn(answer: Buffer, subject: string): ChatChoice {
  const expected = `a chat completion for ${subject},`;
  const value = jsonIn(answer, expected);
  const choices = isJsonObject(value) ? value["choices"] : undefined;
  const choice = Array.isArray(choices) ? (choices as unknown[])[0] : undefined;
  const message = isJsonObject(choice) ? choice["message"] : undefined;
  const content = isJsonObject(message) ? (message["content"] ?? message["refusal"]) : undefined;
  if (typeof content !== "string") throw new Failure(expected, "one without choices.0.message.content");
  return { text: content, tokens: tokensOf((choice as Record<string, unknown>)["logprobs"]) };
}

/** The tokens of `choices.0.logprobs`; undefined unless it is complete. */
function tokensOf(logprobs: unknown): Token[] | undefined {
  const content = isJsonObject(logprobs) ? logprobs["content"] : undefined;
  if (!Array.isArray(content) || !content.every(isToken)) return undefined;
  return content.map((entry) => {
    const others = (entry as unknown as Record<string, unknown>)["top_logprobs"];
    return { ...entry, alternatives: Array.isArray(others) ? others.filter(isToken) : [] };
  });
}

const isToken = (value: unknown): value is { token: string; logprob: number } =>
  isJsonObject(value) && typeof value["token"] === "string" && isFiniteNumber(value["logprob"]);

/** The answer's text, without what a model thinks aloud before it. */
export const textOf = ({ text }: ChatChoice): string => text.replace(/^[^]*<\/think>/, "").trim();

const YES_OR_NO = /\b(yes|no)\b/gi;

/** Where the answer says yes or no: as its first word, or as the only one of the two. */
function verdictIn(text: string): { readonly yes: boolean; readonly offset: number } | undefined {
  const found = [...text.matchAll(YES_OR_NO)].map((match) => ({
    yes: match[0].toLowerCase() === "yes",
    offset: match.index,
  }));
  const [first] = found;
  if (first === undefined) return undefined;
  const leads = !/[\p{L}\p{N}]/u.test(text.slice(0, first.offset));
  return leads || found.every(({ yes }) => yes === first.yes) ? first : undefined;
}

/**
 * The probability of yes against no in the place where the answer says one of them.
 *
 * @param logprobs whether log-probs must, may not or can be used (null); without them it is 1 or 0
 * @returns undefined when the answer says neither, or lacks log-probs that it must have
 */
export function probabilityOfYes(choice: ChatChoice, logprobs: boolean | null): number | undefined {
  const answer = textOf(choice);
  const verdict = verdictIn(answer);
  if (verdict === undefined) return undefined;
  const probability =
    logprobs === false ? undefined : againstNo(choice, choice.text.lastIndexOf(answer) + verdict.offset);
  return probability ?? (logprobs === true ? undefined : Number(verdict.yes));
}

/** p(yes) / (p(yes) + p(no)) over the alternatives of the token at an offset of the text. */
function againstNo({ tokens }: ChatChoice, offset: number): number | undefined {
  let end = 0;
  const token = tokens?.find(({ token: text }) => (end += text.length) > offset);
  if (token === undefined) return undefined;
  const all = new Map([token, ...token.alternatives].map((one) => [one.token, one.logprob]));
  const sumOf = (word: string): number =>
    [...all].filter(([text]) => wordOf(text) === word).reduce((sum, [, logprob]) => sum + Math.exp(logprob), 0);
  const [yes, no] = [sumOf("yes"), sumOf("no")];
  return yes + no > 0 && yes + no < Infinity ? yes / (yes + no) : undefined;
}

/** A token as a word: " Yes" and "**yes" are "yes". */
const wordOf = (token: string): string => token.replaceAll(/[^\p{L}]/gu, "").toLowerCase();

const NUMBER = /-?(?:\d+(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?/gi;
const NUMBER_AFTER_SCORE = new RegExp(`\\b(?:score|rating)\\b["*]*\\s*(?:[:=]|is|of)?[\\s*"]*(${NUMBER.source})`, "gi");

/** The number that an answer gives: `{"score": 4}`, `4`, "Score: 4", "4/5", or the only number in it. */
export function numberIn(text: string): number | undefined {
  const number = numberInJson(text) ?? numberAfterScore(text) ?? onlyNumber(text);
  return isFiniteNumber(number) ? number : undefined;
}

function numberInJson(text: string): number | undefined {
  try {
    const value = JSON.parse(text.replace(/^```(?:json)?\s*([^]*?)\s*```$/, "$1")) as unknown;
    const score = isJsonObject(value) ? value["score"] : value;
    return isFiniteNumber(score) ? score : undefined;
  } catch {
    return undefined;
  }
}

/** The last "score: 4" or "score is 4", since reasons come first. */
function numberAfterScore(text: string): number | undefined {
  const found = [...text.matchAll(NUMBER_AFTER_SCORE)];
  return found.length === 0 ? undefined : Number(found.at(-1)![1]);
}

function onlyNumber(text: string): number | undefined {
  // "4/5" and "4 out of 5" are a 4.
  const numbers = text.replaceAll(/(\d)\s*(?:\/|out of)\s*\d+(?:\.\d+)?/gi, "$1").match(NUMBER) ?? [];
  return numbers.length === 1 ? Number(numbers[0]) : undefined;
}
