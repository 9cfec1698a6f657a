/** Evaluations as tables for people. */
import { change, type Estimate, type Evaluation, type Measure, measures } from "../b2/evaluation.js";

const titles: Record<Measure, string> = {
  reward: "reward",
  trueAlignment: "true alignment",
  diversity: "diversity",
};

/** One evaluation, or one before and one after with the change between them, as aligned columns. */
export function evaluationTable(evaluations: Readonly<Record<string, Evaluation>>): string {
  const names = Object.keys(evaluations);
  const [first, second] = Object.values(evaluations);
  const lines: string[][] = [["prompts", "measure", ...names, ...(second === undefined ? [] : ["change"])]];
  for (const row of first?.rows ?? []) {
    const other = second?.rows.find(({ prompts }) => prompts === row.prompts);
    for (const measure of measures) {
      if (row[measure] === null) continue;
      const cells = [row.prompts, titles[measure], show(row[measure], measure)];
      if (other !== undefined) {
        const difference = change(row, other, measure);
        cells.push(
          show(other[measure], measure),
          `${(difference?.mean ?? 0) > 0 ? "+" : ""}${show(difference, measure)}`,
        );
      }
      lines.push(cells);
    }
  }
  return `${columns(lines)}\n(± is the standard error over prompts)\n`;
}

/** Shares as percent; everything else as it is. */
function show(estimate: Estimate | null, measure: Measure): string {
  if (estimate === null) return "-";
  const { mean, error } = estimate;
  return measure === "trueAlignment"
    ? `${(100 * mean).toFixed(1)}% ± ${(100 * error).toFixed(1)}`
    : `${mean.toFixed(4)} ± ${error.toFixed(4)}`;
}

/** Cells padded to columns, a rule under the first line. */
function columns(lines: readonly (readonly string[])[]): string {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? "").length)));
  const rule = widths.map((width) => "-".repeat(width));
  return [lines[0]!, rule, ...lines.slice(1)]
    .map((line) =>
      line
        .map((cell, column) => cell.padEnd(widths[column]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
