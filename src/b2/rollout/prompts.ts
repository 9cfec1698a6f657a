/**
 * Reads lists of prompts, and chooses the prompts of a stage.
 *
 * Prompt files are JSON lists of strings, as in the reference, or text with one prompt per line.
 */
import { InputError } from "../../base/errors.js";
import { parseJson, readText } from "../../base/files.js";
import { uniform } from "../../base/philox.js";
import { show } from "../../base/show.js";
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
  if (typeof source !== "string") return source.map((prompt) => checked(prompt, "the prompts"));
  return isListName(source) ? promptList(source) : promptFile(source);
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
}

/** Reads the prompt lists of a config. @throws InputError, see readPrompts */
export function readPromptLists({ prompts }: Pick<Config, "prompts">): PromptLists {
  return {
    training: prompts.order === "fixed" ? [prompts.fixed!] : readPrompts(prompts.train),
    ...(prompts.heldOut === null ? {} : { "held-out": readPrompts(prompts.heldOut) }),
  };
}

/** At most `most` prompts of a list, evenly spaced. */
export function thinOut(list: readonly string[], most: number): string[] {
  if (list.length <= most) return [...list];
  return Array.from({ length: most }, (_, i) => list[Math.floor((i * list.length) / most)]!);
}

function promptFile(file: string): string[] {
  const text = readText(file, PromptFileError);
  const prompts = /^\s*[[{]/.test(text) || file.endsWith(".json") ? jsonPrompts(file, text) : text.split(/\r?\n/);
  const trimmed = prompts.map((prompt) => prompt.trim()).filter((prompt) => prompt !== "");
  if (trimmed.length === 0) throw new InputError(`Expected at least one prompt in ${file} but received none`);
  return trimmed.map((prompt) => checked(prompt, file));
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
    super(`Expected a list of prompts, as JSON or as text with one per line. ${problem}`, options);
  }
}
