/** Evaluations as tables for people. */
import {
  compare,
  isAmongRight,
  measureOf,
  measures,
  rewardOf,
  slotOf,
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
  readonly isShare?: boolean;
  /** In how many pairs of images it was measured, where that differs between evaluations. */
  readonly pairs?: (row: EvaluationRow) => number | null;
}

const TITLES: Record<Measure, string> = {
  reward: "reward",
  trueAlignment: "true alignment",
  diversity: "diversity",
  diversityAmongRight: "- among right images",
  pixelDiversityAmongRight: "- of their pixels",
};

/** The measures, and each reward on its own if there are several. */
function measureLines({ rewards = {}, judges = [] }: EvaluationRow): Line[] {
  const labels = Object.keys(rewards).filter((label) => !judges.includes(label));
  const ofReward = (label: string, title: string): Line => {
    return { title, of: (row) => row.rewards?.[label] ?? null, quantity: rewardOf(label) };
  };
  const judged = judges.map((label) => ofReward(label, `judge ${label}`));
  const [only] = labels;
  return measures.flatMap((measure): Line[] => {
    const line: Line = {
      // With a single reward, name it in the table.
      title: measure === "reward" && labels.length === 1 && only !== "reward" ? `reward (${only})` : TITLES[measure],
      of: (row) => row[measure],
      quantity: measureOf(measure),
      isShare: measure === "trueAlignment",
      ...(isAmongRight(measure) && { pairs: (row) => row.rightPairs }),
    };
    if (measure !== "reward") return [line];
    const own = labels.length < 2 ? [] : labels.map((label) => ofReward(label, `- ${label}`));
    return [line, ...own, ...judged];
  });
}

/** The alignment of each slot. */
const slotLines = ({ slots }: EvaluationRow): Line[] =>
  Object.keys(slots).map((slot) => {
    return { title: slot, of: (row) => row.slots[slot] ?? null, quantity: slotOf(slot), isShare: true };
  });

/**
 * One evaluation, or two with the change between them, as aligned columns: the measures, and below them the alignment
 * slot by slot where a judge tells them apart.
 */
export function evaluationTable(evaluations: Readonly<Record<string, Evaluation>>): string {
  const rows = Object.values(evaluations).flatMap((evaluation) => evaluation.rows);
  const notes = ["in square brackets: 95% bootstrap intervals over prompts"];
  if (rows.some(({ rightPairs }) => rightPairs !== null)) notes.push("in round ones: pairs of right images");
  const bySlot = rows.some(({ slots }) => Object.keys(slots).length > 0);
  const tables = [
    table(evaluations, "measure", measureLines),
    ...(bySlot ? [table(evaluations, "true alignment of", slotLines)] : []),
  ];
  return `${tables.join("\n\n")}\n(${notes.join("; ")})\n`;
}

function table(
  evaluations: Readonly<Record<string, Evaluation>>,
  heading: string,
  linesOf: (row: EvaluationRow) => readonly Line[],
): string {
  const names = Object.keys(evaluations);
  const [first, second] = Object.values(evaluations);
  const lines: string[][] = [["prompts", heading, ...names, ...(second === undefined ? [] : ["change"])]];
  for (const row of first?.rows ?? []) {
    const other = second?.rows.find(({ prompts }) => prompts === row.prompts);
    for (const { title, of, quantity, isShare = false, pairs } of linesOf(row)) {
      if (of(row) === null && (other === undefined || of(other) === null)) continue;
      const cell = (row: EvaluationRow): string =>
        `${show(of(row), isShare)}${pairs === undefined ? "" : ` (${pairs(row) ?? 0})`}`;
      const cells = [row.prompts, title, cell(row)];
      if (other !== undefined) {
        const difference = compare(row, other, quantity);
        cells.push(cell(other), show(difference, isShare, { signed: true }));
      }
      lines.push(cells);
    }
  }
  return columns(lines);
}

/** Shares as percent; everything else as it is. */
function show(estimate: Estimate | null, isShare: boolean, { signed = false } = {}): string {
  if (estimate === null) return "-";
  const { mean, low, high } = estimate;
  const number = (value: number): string => {
    const text = isShare ? (100 * value).toFixed(1) : value.toFixed(4);
    return signed && Number(text) > 0 ? `+${text}` : text;
  };
  const bounds = low === null || high === null ? "" : ` [${number(low)}, ${number(high)}]`;
  return `${number(mean)}${isShare ? "%" : ""}${bounds}`;
}

/**
 * Pads cells to columns, and adds a rule under the first line.
 *
 * @param width of the terminal; a wider table is written as a block for each line instead
 */
export function columns(lines: readonly (readonly string[])[], width = process.stdout.columns || Infinity): string {
  const widths = lines[0]!.map((_, column) => Math.max(...lines.map((line) => (line[column] ?? "").length)));
  if (widths.reduce((sum, one) => sum + one + 2, -2) > width) return blocks(lines);
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

/** Each line as a block of its cells, under the names in the first. */
function blocks([names = [], ...lines]: readonly (readonly string[])[]): string {
  const widest = Math.max(...names.map(({ length }) => length));
  const block = (line: readonly string[]): string =>
    line.flatMap((cell, i) => (cell === "" ? [] : [`${(names[i] ?? "").padEnd(widest)}  ${cell}`])).join("\n");
  return lines.map(block).join("\n\n");
}
