/** What a probe found, as a file, in words and as a picture. */
import type { ProbeCost, ProbedRoot } from "../b2/probe/branching.js";
import type { IntervalProposal } from "../b2/probe/propose.js";
import type { MeasureShares } from "../b2/probe/shares.js";
import { lineChart, type Series } from "../images/index.js";

/** probe.json */
export interface ProbeReport {
  readonly model: string;
  /** LoRAs and run folders that were added to the model. */
  readonly lora: readonly string[];
  readonly seed: number;
  /** T */
  readonly steps: number;
  readonly guidanceScale: number;
  /** How many different prompts the roots have. */
  readonly prompts: number;
  readonly roots: number;
  /** K */
  readonly branches: number;
  readonly cost: ProbeCost & { readonly seconds: number };
  /** `reward`; `rewards.<label>` where there are several; `alignment` and `slots.<name>` in the embedded world. */
  readonly measures: Readonly<Record<string, MeasureShares>>;
  readonly proposal: IntervalProposal;
  readonly samples: readonly ProbedRoot[];
}

/** A measure's name in tables and legends. */
export const measureTitle = (name: string): string => name.replace(/^(rewards|slots)\./, "");

/** The proposal in sentences, with the options that set it. */
export function proposalText({
  steps,
  measures,
  proposal,
}: Pick<ProbeReport, "steps" | "measures" | "proposal">): string {
  const shares = measures["reward"]!.shares;
  const { first, last } = proposal;
  const begun = shares.find((share) => share.steps === first)!;
  if (begun.share === null) {
    return "All images of a prompt have the same reward: no step decides it, and nothing can be learnt from it.";
  }
  const decided = `which decide ${percent(begun.share)} of the reward's variance inside a prompt (${rangeText(begun)})`;
  const begin =
    first === steps ? `train all ${steps} steps` : `begin with the last ${first} of ${steps} steps, ${decided},`;
  const growth = first === last ? "from the first stage to the last" : `and end with the last ${last}`;
  const early =
    first >= EARLY * steps
      ? "\nNearly all is decided in the first steps, so shorter intervals and branches have little to learn from here."
      : "";
  return `Proposed: ${begin} ${growth}.${early}\n  --set interval.first=${first} --set interval.last=${last}`;
}

/** From this share of the steps on, an interval is called nearly the whole trajectory. */
const EARLY = 0.85;

/** A share as a whole percentage. */
export const percent = (share: number | null): string => (share === null ? "-" : `${Math.round(100 * share)}%`);

/** An interval as "31 to 63%". */
export const rangeText = ({ low, high }: { readonly low: number | null; readonly high: number | null }): string =>
  low === null || high === null ? "-" : `${Math.round(100 * low)} to ${percent(high)}`;

/** The shares over the length of the interval, with the band of the reward, as PNG. */
export function shareChart({ steps, roots, branches, measures }: ProbeReport): Uint8Array {
  const series = Object.entries(measures).flatMap(([name, { shares }]): Series[] => {
    if (shares.at(-1)!.share === null) return [];
    const curve = {
      name: measureTitle(name),
      x: shares.map((share) => share.steps),
      values: shares.map(({ share }) => 100 * share!),
    };
    if (name !== "reward") return [curve];
    return [{ ...curve, band: shares.map(({ low, high }) => ({ low: 100 * low!, high: 100 * high! })) }];
  });
  return lineChart(series, {
    title: "What the last steps still decide",
    subtitle: `% of the variance inside a prompt; ${roots} roots of ${branches} branches`,
    xLabel: `last s of ${steps} steps`,
    // The legend stands beside the title.
    width: series.reduce((sum, { name }) => sum + name.length * 7.4 + 26, 340),
  });
}
