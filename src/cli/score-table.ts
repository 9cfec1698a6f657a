/** The scores of a folder of images as tables for people. */
import { printable } from "../base/show.js";
import type { FolderScores, ScoredImage } from "../eval/score-folder.js";
import { summarisePrompts, summariseRewards, TOTAL } from "../eval/score-summary.js";
import { columns } from "./table.js";

/** A table of more lines is left to the JSON. */
const MOST_LINES = 30;

/** The best and the worst images that are shown in its stead. */
const ENDS = 5;

/** Longer prompts are cut. */
const MOST_CHARACTERS = 60;

/**
 * Every image if there are few; else the mean of each prompt and the best and worst images. Then each reward over all
 * images.
 */
export function scoreTables(scores: FolderScores): string {
  const { images } = scores;
  const prompts = summarisePrompts(images);
  const tables: string[] = [];
  if (images.length <= MOST_LINES) {
    tables.push(imageTable(images));
  } else {
    if (prompts.length > 1 && prompts.length <= MOST_LINES) tables.push(promptTable(prompts));
    const sorted = [...images].sort((a, b) => b.total - a.total);
    tables.push(`best\n${imageTable(sorted.slice(0, ENDS))}`, `worst\n${imageTable(sorted.slice(-ENDS).reverse())}`);
  }
  return `${[...tables, rewardTable(scores)].join("\n\n")}\n${notes(scores)}`;
}

function imageTable(images: readonly ScoredImage[]): string {
  const labels = labelsOf(images);
  const lines = images.map(({ name, prompt, rewards, total }) => [
    printable(name),
    shortened(prompt),
    ...valuesOf(labels, rewards, total),
  ]);
  return columns([["image", "prompt", ...headings(labels)], ...lines]);
}

function promptTable(prompts: ReturnType<typeof summarisePrompts>): string {
  const labels = labelsOf(prompts);
  const lines = prompts.map(({ prompt, images, rewards, total }) => [
    shortened(prompt),
    String(images),
    ...valuesOf(labels, rewards, total),
  ]);
  return columns([["prompt", "images", ...headings(labels)], ...lines]);
}

function rewardTable(scores: FolderScores): string {
  const lines = summariseRewards(scores).map(
    ({ label, mean, deviation, withinPrompt, lowest, highest, secondsPerImage }) => [
      label,
      number(mean),
      number(deviation),
      withinPrompt === null ? "-" : number(withinPrompt),
      `${number(lowest.value)} (${printable(lowest.name)})`,
      `${number(highest.value)} (${printable(highest.name)})`,
      secondsPerImage === null ? "-" : secondsPerImage.toFixed(3),
    ],
  );
  const heading = ["reward", "mean", "deviation", "within prompts", "lowest", "highest", "seconds an image"];
  return columns([heading, ...lines]);
}

/** What the numbers mean, and what a run could not learn from. */
function notes(scores: FolderScores): string {
  const flat = summariseRewards(scores).filter(({ label, withinPrompt }) => label !== TOTAL && withinPrompt === 0);
  const lines = flat.map(
    ({ label }) => `${label} has one value for all images of a prompt: there is nothing to learn from these images\n`,
  );
  return ["(within prompts: the deviation among images of one prompt, which a run learns from)\n", ...lines].join("");
}

const labelsOf = ([first]: readonly { readonly rewards: Readonly<Record<string, number>> }[]): string[] =>
  Object.keys(first?.rewards ?? {});

const headings = (labels: readonly string[]): string[] => (labels.length < 2 ? [...labels] : [...labels, TOTAL]);

const valuesOf = (labels: readonly string[], rewards: Readonly<Record<string, number>>, total: number): string[] => {
  const own = labels.map((label) => number(rewards[label]!));
  return labels.length < 2 ? own : [...own, number(total)];
};

/** Four decimals, and an exponent for what is too large for them. */
const number = (value: number): string => (Math.abs(value) < 1e6 ? value.toFixed(4) : value.toExponential(4));

function shortened(prompt: string): string {
  const text = printable(prompt);
  return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS - 3)}...` : text;
}
