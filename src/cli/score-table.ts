/** The scores of a folder of images as tables for people. */
import { printable } from "../base/show.js";
import type { FolderScores, ScoredImage } from "../eval/score-folder.js";
import { hasSum, summarisePrompts, summariseRewards, TOTAL, type PromptSummary } from "../eval/score-summary.js";
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
    tables.push(imageTable(images, scores));
  } else {
    if (prompts.length > 1 && prompts.length <= MOST_LINES) tables.push(promptTable(prompts, scores));
    const sorted = [...images].sort((a, b) => b.total - a.total);
    const [best, worst] = [sorted.slice(0, ENDS), sorted.slice(-ENDS).reverse()];
    tables.push(`best\n${imageTable(best, scores)}`, `worst\n${imageTable(worst, scores)}`);
  }
  return `${[...tables, rewardTable(scores)].join("\n\n")}\n${notes(scores)}`;
}

function imageTable(images: readonly ScoredImage[], scores: FolderScores): string {
  const lines = images.map((image) => [printable(image.name), shortened(image.prompt), ...valuesOf(image, scores)]);
  return columns([["image", "prompt", ...headings(scores)], ...lines]);
}

function promptTable(prompts: readonly PromptSummary[], scores: FolderScores): string {
  const lines = prompts.map((one) => [shortened(one.prompt), String(one.images), ...valuesOf(one, scores)]);
  return columns([["prompt", "images", ...headings(scores)], ...lines]);
}

function rewardTable(scores: FolderScores): string {
  const lines = summariseRewards(scores).map(
    ({ label, isJudge, mean, deviation, withinPrompt, lowest, highest, secondsPerImage }) => [
      titleOf(label, isJudge),
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

const labelsOf = ({ images }: FolderScores): string[] => Object.keys(images[0]?.rewards ?? {});

/** The columns of the rewards. */
function headings(scores: FolderScores): string[] {
  const labels = labelsOf(scores);
  const names = labels.map((label) => titleOf(label, scores.judges.includes(label)));
  return hasSum(labels, scores.judges) ? [...names, TOTAL] : names;
}

const titleOf = (label: string, isJudge: boolean): string => (isJudge ? `judge ${label}` : label);

/** What is in the columns of the rewards. */
function valuesOf({ rewards, total }: Pick<ScoredImage, "rewards" | "total">, scores: FolderScores): string[] {
  const labels = labelsOf(scores);
  const values = labels.map((label) => number(rewards[label]!));
  return hasSum(labels, scores.judges) ? [...values, number(total)] : values;
}

/** Four decimals, and an exponent for what is too large for them. */
const number = (value: number): string => (Math.abs(value) < 1e6 ? value.toFixed(4) : value.toExponential(4));

function shortened(prompt: string): string {
  const text = printable(prompt);
  return text.length > MOST_CHARACTERS ? `${text.slice(0, MOST_CHARACTERS - 3)}...` : text;
}
