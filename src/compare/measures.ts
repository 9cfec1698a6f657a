/** Keys of measures, as people read them. */
import type { Axis, PromptList } from "./curves.js";

const TITLES: Readonly<Record<string, string>> = {
  trueAlignment: "true alignment",
  reward: "reward",
  diversity: "diversity",
  diversityAmongRight: "diversity among right images",
  pixelDiversityAmongRight: "pixel diversity among right images",
};

const LISTS: Readonly<Record<PromptList, string>> = {
  training: "training prompts",
  "held-out": "held-out prompts",
  stage: "images of a stage",
};

/** The order of tables and figures; others follow in the order in which they were found. */
const ORDER = Object.keys(TITLES);

/** A key such as `training/slots.animal` in its two parts. */
export function splitKey(key: string): { readonly list: PromptList; readonly name: string } {
  const slash = key.indexOf("/");
  return { list: key.slice(0, slash) as PromptList, name: key.slice(slash + 1) };
}

/** The name of a measure without its prompts: "true alignment", "animal". */
export function measureTitle(name: string): string {
  const [group, ...rest] = name.split(".");
  if (rest.length === 0) return TITLES[name] ?? words(name);
  return group === "slots" ? `${rest.join(".")} right` : rest.join(".");
}

export const listTitle = (list: PromptList): string => LISTS[list];

/** Whether a measure is a share, which is shown in percent. */
export const isShare = (name: string): boolean => name === "trueAlignment" || name.startsWith("slots.");

/** Whether a measure tells how different the images of a prompt are. */
export const isDiversity = (name: string): boolean => /diversity/i.test(name);

/** The names of all measures among keys, in the order of tables. */
export function measureNames(keys: readonly string[]): string[] {
  const names = [...new Set(keys.map((key) => splitKey(key).name))];
  const place = (name: string): number => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);
  return names.sort((a, b) => place(a) - place(b));
}

/** A cost as the label of an axis. */
export const axisTitles: Readonly<Record<Axis, string>> = {
  queries: "reward queries",
  passes: "denoiser passes",
  seconds: "seconds",
  processorSeconds: "processor seconds",
};

/** camelCase as words. */
const words = (name: string): string =>
  name.replaceAll(/([a-z])([A-Z])/g, (_, a: string, b: string) => `${a} ${b.toLowerCase()}`);

/** A value of a measure as text: shares in percent. */
export function showValue(name: string, value: number): string {
  return isShare(name) ? `${(100 * value).toFixed(1)}%` : value.toFixed(3);
}

/** A difference of two values as text, with its sign; shares in percentage points. */
export function showDifference(name: string, value: number): string {
  const text = isShare(name) ? (100 * value).toFixed(1) : value.toFixed(3);
  return Number(text) > 0 ? `+${text}` : text;
}

/** A count or seconds as text: 12,300. */
export function showCost(value: number): string {
  if (!Number.isFinite(value)) return "never";
  return value >= 100 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(3)));
}
