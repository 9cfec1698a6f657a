/**
 * Reads lists of prompts, and chooses the prompts of a stage.
 *
 * Prompt files are JSON lists of strings, as in the reference; text with one prompt per line; or lines of JSON objects
 * (`.jsonl`) with a `prompt` and whatever rewards want to know of it, as GenEval's metadata.
 */
import { isDeepStrictEqual } from "node:util";
import { InputError } from "../../base/errors.js";
import { parseJson, readJsonLines, readText } from "../../base/files.js";
import { uniform } from "../../base/philox.js";
import { show } from "../../base/show.js";
import type { PromptMetadata } from "../../rewards/index.js";
import type { Config } from "../config/schema.js";
import { isListName, promptList } from "./prompt-lists.js";

export { promptListNames } from "./prompt-lists.js";

/**
 * Reads a list of prompts.
 *
 * @param source the prompts themselves; the name of a list, see prompt-lists.ts; or a file, JSON if it begins with a
 *   bracket, else text with one prompt per line
 * @throws InputError when there is no such list, or it is empty, or contains something other than strings, or control
 *   characters
 */
export function readPrompts(source: string | readonly string[]): string[] {
  return readPromptList(source).map(({ prompt }) => prompt);
}

/** A prompt with what its file says of it. */
interface Described {
  readonly prompt: string;
  readonly metadata?: PromptMetadata;
}

function readPromptList(source: string | readonly string[]): Described[] {
  if (typeof source !== "string") return source.map((prompt) => ({ prompt: checked(prompt, "the prompts") }));
  return isListName(source) ? promptList(source).map((prompt) => ({ prompt })) : promptFile(source);
}

/** Refuses control characters: no text encoder knows them, and they are never meant. White space may be of any kind. */
function checked(prompt: string, where: string): string {
  // eslint-disable-next-line no-control-regex
  if (!/[\0-\x08\x0e-\x1f\x7f]/.test(prompt)) return prompt;
  throw new InputError(`Expected prompts without control characters in ${where} but received ${show(prompt)}`);
}

/**
 * The prompts of a stage's roots, one each; `rootsPerPrompt` neighbours share one.
 *
 * "random" depends on (seed, stage, group of neighbours) alone; "in-turn" cycles through the list across stages.
 */
export function promptsOfStage(
  list: readonly string[],
  stage: number,
  { seed, prompts, sample }: Pick<Config, "seed" | "prompts" | "sample">,
): string[] {
  const { rootsPerStage, rootsPerPrompt } = sample;
  const groups = Math.ceil(rootsPerStage / rootsPerPrompt);
  return Array.from({ length: rootsPerStage }, (_, root) => {
    const group = Math.floor(root / rootsPerPrompt);
    switch (prompts.order) {
      case "random": {
        const u = uniform({ seed, stream: "prompt", stage, root: group, branch: 0, step: 0 });
        return list[Math.floor(u * list.length)]!;
      }
      case "in-turn":
        return list[(stage * groups + group) % list.length]!;
      case "fixed":
        return prompts.fixed!;
      default:
        return prompts.order satisfies never;
    }
  });
}

/** The prompt lists of a config: for training, and held out from it. */
export interface PromptLists {
  readonly training: readonly string[];
  readonly "held-out"?: readonly string[];
  /** What is known of prompts of either list besides their texts. */
  readonly metadata?: ReadonlyMap<string, PromptMetadata> | undefined;
}

/** Reads the prompt lists of a config. @throws InputError, see readPrompts */
export function readPromptLists({ prompts }: Pick<Config, "prompts">): PromptLists {
  const source = prompts.order === "fixed" ? [prompts.fixed!] : prompts.train;
  const [training, heldOut] = [
    readPromptList(source),
    prompts.heldOut === null ? null : readPromptList(prompts.heldOut),
  ];
  const texts = (list: readonly Described[]): string[] => list.map(({ prompt }) => prompt);
  return {
    training: texts(training),
    ...(heldOut && { "held-out": texts(heldOut) }),
    metadata: metadataOf([...training, ...(heldOut ?? [])]),
  };
}

/** By prompt, without those of which nothing is known. @throws InputError for a prompt that is described in two ways */
function metadataOf(prompts: readonly Described[]): Map<string, PromptMetadata> {
  const byPrompt = new Map<string, PromptMetadata>();
  for (const { prompt, metadata } of prompts) {
    if (metadata === undefined) continue;
    const known = byPrompt.get(prompt);
    if (known !== undefined && !isDeepStrictEqual(known, metadata)) {
      throw new InputError(
        `Expected one description of each prompt but received two of ${show(prompt)}: ${show(known)} and ${show(metadata)}`,
      );
    }
    byPrompt.set(prompt, metadata);
  }
  return byPrompt;
}

/** At most `most` prompts of a list, evenly spaced. */
export function thinOut(list: readonly string[], most: number): string[] {
  if (list.length <= most) return [...list];
  return Array.from({ length: most }, (_, i) => list[Math.floor((i * list.length) / most)]!);
}

function promptFile(file: string): Described[] {
  const all = describedPrompts(file);
  const trimmed = all.map((one) => ({ ...one, prompt: one.prompt.trim() })).filter(({ prompt }) => prompt !== "");
  if (trimmed.length === 0) throw new InputError(`Expected at least one prompt in ${file} but received none`);
  for (const { prompt } of trimmed) checked(prompt, file);
  return trimmed;
}

function describedPrompts(file: string): Described[] {
  if (file.endsWith(".jsonl")) return promptLines(file);
  const text = readText(file, PromptFileError);
  const isJson = /^\s*[[{]/.test(text) || file.endsWith(".json");
  return (isJson ? jsonPrompts(file, text) : text.split(/\r?\n/)).map((prompt) => ({ prompt }));
}

/** @throws InputError naming the file, and the first line without a prompt */
function promptLines(file: string): Described[] {
  return readJsonLines(file, PromptFileError).map((line, i) => {
    const { prompt, ...metadata } = line;
    if (typeof prompt === "string") return Object.keys(metadata).length === 0 ? { prompt } : { prompt, metadata };
    throw new PromptFileError(`${file}: Expected a text for prompt in line ${i + 1} but received ${show(prompt)}`);
  });
}

/** @throws InputError naming the file, and the first item that is not a string */
function jsonPrompts(file: string, text: string): string[] {
  const value = parseJson(text, file, PromptFileError);
  if (!Array.isArray(value)) throw new PromptFileError(`${file}: Expected a list but received ${show(value)}`);
  const wrong = value.findIndex((prompt) => typeof prompt !== "string");
  if (wrong < 0) return value as string[];
  throw new PromptFileError(
    `${file}: Expected texts in the list but received ${show(value[wrong])} at position ${wrong}`,
  );
}

class PromptFileError extends InputError {
  constructor(problem: string, options?: ErrorOptions) {
    super(`Expected a list of prompts, as JSON, as text with one per line, or as JSON Lines. ${problem}`, options);
  }
}
