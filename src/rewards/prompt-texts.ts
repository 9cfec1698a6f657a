/** The texts of a file of prompts, for statistics over their words. */
import { parseJson, parseJsonObject, readText } from "../base/files.js";
import { show } from "../base/show.js";
import { RewardError } from "./error.js";

/**
 * @param file a JSON list of texts, JSON Lines with `prompt`, or text with one prompt per line
 * @throws RewardError naming the file and what is wrong with it
 */
export function readPromptTexts(file: string): string[] {
  const prompts = promptsIn(readText(file, RewardError).trim(), file);
  const wrong = prompts.findIndex((prompt) => typeof prompt !== "string");
  if (wrong >= 0) {
    throw new RewardError(`${file}: Expected a text for prompt ${wrong} but received ${show(prompts[wrong])}`);
  }
  if (prompts.length >= 2) return prompts as string[];
  throw new RewardError(`${file}: Expected at least two prompts but received ${prompts.length}`);
}

function promptsIn(text: string, file: string): unknown[] {
  if (text.startsWith("[")) return parseJson(text, file, RewardError) as unknown[];
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (!text.startsWith("{")) return lines;
  return lines.map((line, i) => parseJsonObject(line, `line ${i + 1} of ${file}`, RewardError)["prompt"]);
}
