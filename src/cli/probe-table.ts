/** A probe as a table for people. */
import { measureTitle, percent, rangeText, type ProbeReport } from "../eval/probe-report.js";
import { columns } from "./table.js";

/** A line for each split: what the last s steps decide of each measure. */
export function probeTable({ steps, measures }: ProbeReport): string {
  const names = Object.keys(measures);
  const { shares } = measures["reward"]!;
  const lines = shares.map((reward, i) => [
    String(reward.steps),
    ...names.map((name) => {
      const own = measures[name]!.shares[i]!;
      return name === "reward" ? `${percent(own.share)} (${rangeText(own)})` : percent(own.share);
    }),
    percent(reward.differing),
  ]);
  const means = ["mean", ...names.map((name) => measures[name]!.mean.toFixed(3)), ""];
  const head = [`last s of ${steps}`, ...names.map(measureTitle), "roots that differ"];
  const note =
    "Share of the variance inside a prompt that the last s steps decide, with the reward's 95% interval;\n" +
    "roots that differ: whose branches do not all have the same reward; mean: of independent images.";
  return `${columns([head, ...lines, means])}\n${note}\n`;
}
