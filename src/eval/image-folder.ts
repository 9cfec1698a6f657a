/**
 * A folder of images with their prompts, as people have them: with a file of prompts in the form of Hugging Face's
 * imagefolder, as an images folder of a run, or with the prompts as file names.
 */
import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, extname, join, relative, resolve, sep } from "node:path";
import { InputError } from "../base/errors.js";
import { parseJsonObject, readJsonLines, readText, writeJsonLines, type JsonObject } from "../base/files.js";
import { show } from "../base/show.js";
import type { PromptMetadata } from "../rewards/index.js";
import { stageFiles } from "../runs/index.js";

/** An image and what is known of it. */
export interface FolderImage {
  /** Path within the folder. */
  readonly name: string;
  readonly prompt: string;
  /** The other keys of its line in the file of prompts. */
  readonly metadata: PromptMetadata;
}

/** The images of a folder, by name. */
export interface ImageFolderContents {
  readonly images: readonly FolderImage[];
  /** Where the prompts come from: a file, or undefined for the images' names. */
  readonly prompts: string | undefined;
  /** Names in the file of prompts of which there is no image. */
  readonly missing: readonly string[];
}

/** The file of prompts in a folder, as Hugging Face's imagefolder names it. */
export const PROMPTS_FILE = "metadata.jsonl";

/** Other forms of it, which are not read. */
const FOREIGN_FILES = ["metadata.csv", "metadata.parquet"];

const EXTENSIONS = [".png", ".jpg", ".jpeg", ".webp"];

const isImage = (name: string): boolean =>
  !basename(name).startsWith(".") && EXTENSIONS.includes(extname(name).toLowerCase());

/** The order of names: image-2 before image-10. */
const byName = new Intl.Collator("en", { numeric: true });

/**
 * Finds the images of a folder (PNG, JPEG, WebP) and their prompts. The prompts come from `file`; or from
 * metadata.jsonl in the folder; or, for the images of a stage of a run, from the stage; or from the images' names, see
 * promptOfName. Images in folders inside count if the file of prompts names them.
 *
 * @param file JSON Lines with `file_name` (a path within the folder), `prompt` or `text`, and anything else
 * @throws InputError for no images, and naming the images without a prompt
 */
export function readImageFolder(folder: string, file?: string): ImageFolderContents {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) {
    const received = existsSync(folder) ? "a file" : "nothing there";
    throw new InputError(`Expected a folder of images but received ${folder}, which is ${received}`);
  }
  const source = file ?? [join(folder, PROMPTS_FILE)].find((path) => existsSync(path));
  const foreign = FOREIGN_FILES.find((name) => source === undefined && existsSync(join(folder, name)));
  if (foreign !== undefined) {
    throw new InputError(`Expected the prompts of ${folder} as ${PROMPTS_FILE} but received ${foreign}; convert it`);
  }
  const lines = source === undefined ? linesOfStage(folder) : linesOf(folder, source);
  const named = [...(lines?.keys() ?? [])];
  const isThere = (name: string): boolean => existsSync(join(folder, name));
  const names = new Set([...readdirSync(folder).filter(isImage), ...named.filter(isThere)]);
  const sorted = [...names].sort((a, b) => byName.compare(a, b) || (a < b ? -1 : 1));
  if (sorted.length === 0) {
    throw new InputError(`Expected images (${EXTENSIONS.join(", ")}) in ${folder} but received none`);
  }
  const found = sorted.map((name) => lines?.get(name) ?? (lines === undefined ? fromName(name) : undefined));
  const without = sorted.filter((_, i) => found[i] === undefined);
  if (without.length > 0) throw new InputError(withoutPrompt(folder, without, source));
  return {
    images: found as FolderImage[],
    prompts: source,
    missing: named.filter((name) => !isThere(name)),
  };
}

function withoutPrompt(folder: string, names: readonly string[], source: string | undefined): string {
  const [first] = names;
  const others = names.length === 1 ? "" : `, nor for ${names.length - 1} more`;
  const where = source === undefined ? `its name, nor is there a ${PROMPTS_FILE} in the folder` : source;
  return `Expected a prompt for ${join(folder, first!)} but received none in ${where}${others}`;
}

/**
 * The prompt that an image's name is, for images without a file of prompts:
 *
 * 1. The ending goes, and so do the numbers in front that `b2 generate` writes (`00-3-`), and an image's number behind
 *    an underscore at the end (`_0003`).
 * 2. Hyphens and underscores are spaces.
 *
 * `a-cat-on-a-mat_0003.png` and `00-3-a-cat-on-a-mat.png` are "a cat on a mat".
 *
 * @returns undefined for a name without a letter in it
 */
export function promptOfName(name: string): string | undefined {
  const words = basename(name, extname(name))
    .replace(/^\d{2,}-\d+-/, "")
    .replace(/_\d+$/, "")
    .replaceAll(/[-_\s]+/g, " ")
    .trim();
  return /\p{L}/u.test(words) ? words : undefined;
}

function fromName(name: string): FolderImage | undefined {
  const prompt = promptOfName(name);
  return prompt === undefined ? undefined : { name, prompt, metadata: {} };
}

/** The lines of a file of prompts, by the image that they name. @throws InputError naming the line */
function linesOf(folder: string, file: string): Map<string, FolderImage> {
  const lines = new Map<string, FolderImage>();
  for (const [i, text] of readText(file).split("\n").entries()) {
    if (text.trim() === "") continue;
    const where = `line ${i + 1} of ${file}`;
    const image = imageOf(parseJsonObject(text, where), folder, where);
    if (lines.has(image.name))
      throw new InputError(`${where}: Expected one line for ${image.name} but received a second`);
    lines.set(image.name, image);
  }
  return lines;
}

function imageOf(line: JsonObject, folder: string, where: string): FolderImage {
  const { file_name: given, ...others } = line;
  if (typeof given !== "string" || given === "") {
    throw new InputError(`${where}: Expected the name of an image for file_name but received ${show(given)}`);
  }
  const name = relative(folder, resolve(folder, given));
  // A reward may send images away: a file of prompts from elsewhere must not choose which.
  if (name === "" || name === ".." || name.startsWith(`..${sep}`)) {
    throw new InputError(`${where}: Expected an image inside ${folder} for file_name but received ${show(given)}`);
  }
  const key = ["prompt", "text"].find((key) => others[key] !== undefined);
  const prompt = key === undefined ? undefined : others[key];
  if (typeof prompt !== "string" || prompt.trim() === "") {
    throw new InputError(`${where}: Expected a text for prompt or text but received ${show(prompt)}`);
  }
  const metadata = Object.fromEntries(Object.entries(others).filter(([other]) => other !== key));
  return { name, prompt: prompt.trim(), metadata };
}

/** The images of a stage of a run, which the stage's list of samples knows; undefined for any other folder. */
function linesOfStage(folder: string): Map<string, FolderImage> | undefined {
  const whole = resolve(folder);
  const samples = join(dirname(whole), stageFiles.samples);
  if (basename(whole) !== stageFiles.images || !existsSync(samples)) return undefined;
  const images = readJsonLines(samples).flatMap(({ image, prompt }): FolderImage[] =>
    typeof image === "string" && typeof prompt === "string" ? [{ name: basename(image), prompt, metadata: {} }] : [],
  );
  return new Map(images.map((image) => [image.name, image]));
}

/**
 * Opens a folder's file of prompts, which is metadata.jsonl, to add images that are being made.
 *
 * @returns what to call with their names and prompts: it writes them in place of the lines that the file has of them
 * @throws InputError for a file that is there and damaged
 */
export function openPromptsFile(folder: string): (made: readonly FolderImage[]) => void {
  const file = join(folder, PROMPTS_FILE);
  const known = existsSync(file) ? readJsonLines(file) : [];
  return (made) => {
    const names = new Set<unknown>(made.map(({ name }) => name));
    const others = known.filter(({ file_name: name }) => !names.has(name));
    const lines = made.map(({ name, prompt, metadata }) => ({ ...metadata, file_name: name, prompt }));
    writeJsonLines(file, [...others, ...lines]);
  };
}
