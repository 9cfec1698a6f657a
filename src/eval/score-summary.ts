/** What the scores of a folder of images come to: each reward over all images, and over those of each prompt. */
import { groupsOf } from "../base/groups.js";
import { meanAndDeviation } from "../base/statistics.js";
import type { FolderScores, ScoredImage } from "./score-folder.js";

/** A reward over all images. */
export interface RewardSummary {
  readonly label: string;
  readonly isJudge: boolean;
  readonly mean: number;
  /** Standard deviation over all images. */
  readonly deviation: number;
  /**
   * Standard deviation among the images of a prompt, pooled over prompts: what a run can learn from, since it compares
   * images of one prompt. null where no prompt has two images.
   */
  readonly withinPrompt: number | null;
  /** The first image that has the value. */
  readonly lowest: { readonly value: number; readonly name: string };
  readonly highest: { readonly value: number; readonly name: string };
  /** Wall time for an image; null for the weighted sum. */
  readonly secondsPerImage: number | null;
}

/** The images of a prompt. */
export interface PromptSummary {
  readonly prompt: string;
  readonly images: number;
  /** Mean of each reward by its label. */
  readonly rewards: Readonly<Record<string, number>>;
  /** Mean of the weighted sum. */
  readonly total: number;
}

/** The label of the weighted sum, where there are several rewards. */
export const TOTAL = "weighted sum";

/** Each reward in the order of the set; where several train, their weighted sum as the last. */
export function summariseRewards({ images, seconds, judges }: FolderScores): RewardSummary[] {
  const labels = Object.keys(images[0]?.rewards ?? {});
  const own = labels.map((label): RewardSummary => {
    const values = summary(label, images, ({ rewards }) => rewards[label]!, (seconds[label] ?? 0) / images.length);
    return { ...values, isJudge: judges.includes(label) };
  });
  return hasSum(labels, judges) ? [...own, summary(TOTAL, images, ({ total }) => total, null)] : own;
}

/** Whether the weighted sum is another number than each reward. */
export const hasSum = (labels: readonly string[], judges: readonly string[]): boolean =>
  labels.filter((label) => !judges.includes(label)).length > 1;

/** Each prompt, in the order of its first image. */
export function summarisePrompts(images: readonly ScoredImage[]): PromptSummary[] {
  return [...byPrompt(images)].map(([prompt, own]) => {
    const mean = (valueOf: (image: ScoredImage) => number): number => meanAndDeviation(own.map(valueOf)).mean;
    const labels = Object.keys(own[0]!.rewards);
    const rewards = Object.fromEntries(labels.map((label) => [label, mean((image) => image.rewards[label]!)]));
    return { prompt, images: own.length, rewards, total: mean(({ total }) => total) };
  });
}

function summary(
  label: string,
  images: readonly ScoredImage[],
  valueOf: (image: ScoredImage) => number,
  secondsPerImage: number | null,
): RewardSummary {
  const end = (isBefore: (a: number, b: number) => boolean) => {
    const found = images.reduce((end, one) => (isBefore(valueOf(one), valueOf(end)) ? one : end));
    return { value: valueOf(found), name: found.name };
  };
  return {
    label,
    isJudge: false,
    ...meanAndDeviation(images.map(valueOf)),
    withinPrompt: withinPrompt(images, valueOf),
    lowest: end((a, b) => a < b),
    highest: end((a, b) => a > b),
    secondsPerImage,
  };
}

function withinPrompt(images: readonly ScoredImage[], valueOf: (image: ScoredImage) => number): number | null {
  let squares = 0;
  let degrees = 0;
  for (const own of byPrompt(images).values()) {
    const { deviation } = meanAndDeviation(own.map(valueOf));
    squares += (own.length - 1) * deviation ** 2;
    degrees += own.length - 1;
  }
  return degrees === 0 ? null : Math.sqrt(squares / degrees);
}

const byPrompt = (images: readonly ScoredImage[]): Map<string, ScoredImage[]> =>
  groupsOf(images, ({ prompt }) => prompt);
