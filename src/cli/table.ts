/** Evaluations as tables for people. */
import {
  compare,
  measureOf,
  measures,
  rewardOf,
  type Estimate,
  type Evaluation,
  type EvaluationRow,
  type Measure,
  type Quantity,
} from "../eval/measures.js";

/** One line of a list of prompts. */
interface Line {
  readonly title: string;
  readonly of: (row: EvaluationRow) => Estimate | null;
  readonly quantity: Quantity;
  readonly isShare: boolean;
}

const TITLES: Record<Measure, string> = {
  reward: "reward",
  trueAlignment: "true alignment",
  diversity: "diversity",
};

/** The measures, and each reward on its own if there are several. */
function linesOf({ rewards = {} }: EvaluationRow): Line[] {
  const labels = Object.keys(rewards);
  const [only] = labels;
  return measures.flatMap((measure): Line[] => {
    const line: Line = {
      // With a single reward, name it in the table.
      title: measure === "reward" && labels.length === 1 && only !== "reward" ? `reward (${only})` : TITLES[measure],
      of: (row) => row[measure],
      quantity: measureOf(measure),
      isShare: measure === "trueAlignment",
    };
    if (measure !== "reward" || labels.length < 2) return [line];
    const own = labels.map((label): Line => {
      return {
        title: `- ${label}`,
        of: (row) => row.rewards?.[label] ?? null,
        quantity: rewardOf(label),
        isShare: false,
      };
    });
    return [line, ...own];
  });
}

/** One evaluation, or two with the change between them, as aligned columns. */
export function evaluationTable(evaluations: Readonly<Record<string, Evaluation>>): string {
  const names = Object.keys(evaluations);
  const [first, second] = Object.values(evaluations);
  const lines: string[][] = [["prompts", "measure", ...names, ...(second === undefined ? [] : ["change"])]];
  for (const row of first?.rows ?? []) {
    const other = second?.rows.find(({ prompts }) => prompts === row.prompts);
    for (const { title, of, quantity, isShare } of linesOf(row)) {
      const estimate = of(row);
      if (estimate === null) continue;
      const cells = [row.prompts, title, show(estimate, isShare)];
      if (other !== undefined) {
        const difference = compare(row, other, quantity);
        cells.push(show(of(other), isShare), `${(difference?.mean ?? 0) > 0 ? "+" : ""}${show(difference, isShare)}`);
      }
      lines.push(cells);
    }
  }
  return `${columns(lines)}\n(± is the standard error over prompts)\n`;
}

/** Shares as percent; everything else as it is. */
function show(estimate: Estimate | null, isShare: boolean): string {
  if (estimate === null) return "-";
  const { mean, error } = estimate;
  return isShare
    ? `${(100 * mean).toFixed(1)}% ± ${(100 * error).toFixed(1)}`
    : `${mean.toFixed(4)} ± ${error.toFixed(4)}`;
}

/** Pads cells to columns, and adds a rule under the first line. */
export function columns(lines: readonly (readonly string[])[]): string {
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
