/**
 * Lists of prompts by name: those of the embedded world (`emoji:train/colour`), and the files of the package's folder
 * `prompts` (`paper:colour/train` is `prompts/paper/colour/train.json`; prompts/README.md names their sources).
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { InputError } from "../../base/errors.js";
import { nearest } from "../../base/nearest.js";
import { packageRoot } from "../../base/package-root.js";
import { show } from "../../base/show.js";
import { heldOutPrompts, TEMPLATES, trainingPrompts } from "../../world/index.js";

/** The paper's templates (arXiv 2503.11240, section 5). */
const PAPER_TEMPLATES = ["activity", "colour", "relation"];

const lists = new Map<string, () => string[]>([
  ...embeddedLists("train", trainingPrompts),
  ...embeddedLists("held-out", heldOutPrompts),
  ...paperLists("train"),
  ...paperLists("test"),
  ["ddpo:animals", () => readList("ddpo/animals")],
]);

/** The names of all lists, in the order of their families. */
export const promptListNames = (): string[] => [...lists.keys()];

/** Whether a text is the name of a list, known or not, rather than a file. */
export const isListName = (source: string): boolean => /^(emoji|paper|ddpo):/.test(source);

/**
 * The prompts of a list, or some of them: `paper:train[:72]` are the first 72, as in Hugging Face's datasets.
 *
 * @throws InputError naming the known lists, and for a part that is empty
 */
export function promptList(source: string): string[] {
  const [, name = source, begin, end] = /^(.*)\[(\d*):(\d*)\]$/.exec(source) ?? [];
  const list = lists.get(name);
  if (list === undefined) {
    const close = nearest(name, promptListNames());
    throw new InputError(
      `Expected ${promptListNames().join(", ")} for the name of a list of prompts but received ${show(name)}` +
        (close === undefined ? "" : `; did you mean ${close}?`),
    );
  }
  const all = list();
  const part = all.slice(begin ? Number(begin) : 0, end ? Number(end) : undefined);
  if (part.length > 0) return part;
  throw new InputError(`Expected a part of the ${all.length} prompts of ${name} but received ${show(source)}`);
}

/** All templates of the embedded world together, and each alone. */
function embeddedLists(
  name: string,
  of: (template: (typeof TEMPLATES)[number]) => string[],
): [name: string, list: () => string[]][] {
  return [
    [`emoji:${name}`, () => TEMPLATES.flatMap(of)],
    ...TEMPLATES.map((template): [string, () => string[]] => [`emoji:${name}/${template}`, () => of(template)]),
  ];
}

/** All templates of the paper together, and each alone. */
function paperLists(name: string): [name: string, list: () => string[]][] {
  const of = (template: string): string[] => readList(`paper/${template}/${name}`);
  return [
    [`paper:${name}`, () => PAPER_TEMPLATES.flatMap(of)],
    ...PAPER_TEMPLATES.map((template): [string, () => string[]] => [`paper:${template}/${name}`, () => of(template)]),
  ];
}

const readList = (path: string): string[] =>
  JSON.parse(readFileSync(join(packageRoot(), "prompts", `${path}.json`), "utf8")) as string[];
