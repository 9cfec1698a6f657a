/** The tables of a report, and their Markdown. */
import type { Interval } from "../base/intervals.js";
import { printable } from "../base/show.js";
import { commonCost } from "./analysis.js";
import type { Axis, PromptList } from "./curves.js";
import {
  axisTitles,
  isShare,
  listTitle,
  measureNames,
  measureTitle,
  showCost,
  showDifference,
  showValue,
  splitKey,
} from "./measures.js";
import { takesPart, type MeasureReport, type Report } from "./report.js";

/** Text of a cell; strong where an interval excludes zero. */
export interface Cell {
  readonly text: string;
  readonly strong?: boolean;
}

export interface Table {
  readonly title: string;
  readonly note: string;
  /** The first column names settings. */
  readonly head: readonly string[];
  readonly rows: readonly (readonly Cell[])[];
}

const NOTHING: Cell = { text: "-" };

/** All measures after training, and their differences at equal cost. */
export function detailTables(report: Report): Table[] {
  return [
    ...diversityTables(report),
    ...listsOf(report).map((list) => finalTable(report, list)),
    ...report.axes.flatMap((axis) => listsOf(report).map((list) => equalTable(report, list, axis))),
  ];
}

/** What the command line prints: the runs, and what a target costs. */
export const summaryTables = (report: Report): Table[] => [runsTable(report), ...targetTables(report)];

/** Prompt lists that have measures. */
export const listsOf = ({ measures }: Report): PromptList[] => [
  ...new Set(measures.map(({ key }) => splitKey(key).list)),
];

/** Tables as Markdown. */
export function tablesMarkdown(tables: readonly Table[]): string {
  // Names of rewards come from anywhere: they are neither columns nor HTML.
  const plain = (text: string): string => printable(text).replace(/[\\|<]/g, "\\$&");
  const cell = ({ text, strong }: Cell): string => (strong === true ? `**${plain(text)}**` : plain(text));
  return tables
    .map(({ title, note, head, rows }) => {
      const lines = [head.map((text) => ({ text })), ...rows].map((row) => `| ${row.map(cell).join(" | ")} |`);
      const rule = `|${head.map(() => " --- |").join("")}`;
      return [`## ${title}`, "", note, "", lines[0], rule, ...lines.slice(1), ""].join("\n");
    })
    .join("\n");
}

function runsTable({ settings, runs }: Report): Table {
  const axes: Axis[] = ["queries", "passes", "processorSeconds", "seconds"];
  return {
    title: "Runs",
    note: "Costs of one run, means over its seeds. A backward pass counts as two passes. Evaluations cost nothing.",
    head: [
      "setting",
      "runs finished",
      "stages",
      ...axes.map((axis) => (axis === "seconds" ? "wall seconds" : axisTitles[axis])),
    ],
    rows: settings.map((setting) => {
      const own = runs.filter((run) => run.setting === setting);
      const finished = own.filter(({ stages, planned }) => stages >= planned).length;
      const compared = own.filter(takesPart(runs));
      const mean = (axis: Axis): number =>
        compared.reduce((sum, run) => sum + commonCost([run], axis), 0) / compared.length;
      return [
        { text: setting },
        { text: `${finished} of ${own.length}` },
        { text: [...new Set(own.map(({ planned }) => planned))].join(", ") },
        ...axes.map((axis) => ({ text: showCost(mean(axis)) })),
      ];
    }),
  };
}

function targetTables({ targets, settings, axes, baseline }: Report): Table[] {
  return targets.map(({ key, target, costs }) => {
    const { list, name } = splitKey(key);
    return {
      title: `Cost until ${measureTitle(name)} on ${listTitle(list)} is ${showValue(name, target)}`,
      note:
        `Where the mean over seeds first gets there, with its 95% interval, and the share of what ${baseline} needs. ` +
        "Bold: the interval of the share excludes 1.",
      head: ["setting", ...axes.flatMap((axis) => [axisTitles[axis], `of ${baseline}'s`])],
      rows: settings.map((setting) => [
        { text: setting },
        ...axes.flatMap((axis): Cell[] => {
          const found = costs[axis]?.[setting];
          if (found === undefined) return [NOTHING, NOTHING];
          const { cost, low, high, ratio } = found;
          const own = { text: `${showCost(cost)}${bounds(low, high, showCost)}` };
          if (ratio === null || setting === baseline) return [own, NOTHING];
          const text = `${showRatio(ratio.mean)}${bounds(ratio.low, ratio.high, showRatio)}`;
          return [own, { text, strong: excludes(ratio, 1) }];
        }),
      ]),
    };
  });
}

/** What diversity is left where the alignment is the baseline's. */
function diversityTables({ targets, settings, baseline }: Report): Table[] {
  return targets.flatMap(({ key, target, diversities }): Table[] => {
    const { list, name } = splitKey(key);
    const measured = Object.entries(diversities);
    if (measured.length === 0) return [];
    return [
      {
        title: `Diversity where ${measureTitle(name)} on ${listTitle(list)} is ${showValue(name, target)}`,
        note:
          `Mean over seeds and its 95% interval at the queries where the mean first gets there, and the difference to ` +
          `${baseline}. Bold: the interval excludes zero.`,
        head: ["setting", ...measured.flatMap(([other]) => [measureTitle(splitKey(other).name), `to ${baseline}'s`])],
        rows: settings.map((setting) => [
          { text: setting },
          ...measured.flatMap(([other, found]): Cell[] => {
            const left = found[setting];
            if (left === undefined) return [NOTHING, NOTHING];
            const own = { text: withBounds(left.value, (value) => showValue(splitKey(other).name, value)) };
            if (left.difference === null || setting === baseline) return [own, NOTHING];
            const text = withBounds(left.difference, (value) => showDifference(splitKey(other).name, value));
            return [own, { text, strong: excludes(left.difference, 0) }];
          }),
        ]),
      },
    ];
  });
}

function finalTable(report: Report, list: PromptList): Table {
  const measures = measuresOf(report, list);
  return {
    title: `After training, ${listTitle(list)}`,
    note: "Mean over seeds and its 95% interval, whatever the run has cost.",
    head: ["setting", ...measures.map(titleOf)],
    rows: report.settings.map((setting) => [
      { text: setting },
      ...measures.map(({ key, final }): Cell => {
        const interval = final[setting];
        return interval === undefined
          ? NOTHING
          : { text: withBounds(interval, (value) => showValue(splitKey(key).name, value)) };
      }),
    ]),
  };
}

function equalTable(report: Report, list: PromptList, axis: Axis): Table {
  const { settings, baseline } = report;
  const measures = measuresOf(report, list);
  return {
    title: `At equal ${axisTitles[axis]}, ${listTitle(list)}: difference to ${baseline}`,
    note:
      `At the largest number of ${axisTitles[axis]} that the runs of both have reached. Differences of runs with the same ` +
      "seed, mean and 95% interval; shares in percentage points. Bold: the interval excludes zero.",
    head: ["setting", axisTitles[axis], ...measures.map(titleOf)],
    rows: settings
      .filter((setting) => setting !== baseline)
      .map((setting) => {
        const found = measures.map(({ equalCost }) => equalCost[axis]?.[setting]);
        const at = found.find((equal) => equal !== undefined)?.at;
        return [
          { text: setting },
          { text: at === undefined ? "-" : showCost(at) },
          ...measures.map(({ key }, i): Cell => {
            const difference = found[i]?.difference;
            if (difference == null) return NOTHING;
            const text = withBounds(difference, (value) => showDifference(splitKey(key).name, value));
            return { text, strong: excludes(difference, 0) };
          }),
        ];
      }),
  };
}

function measuresOf({ measures }: Report, list: PromptList): MeasureReport[] {
  const own = measures.filter(({ key }) => splitKey(key).list === list);
  return measureNames(own.map(({ key }) => key)).map((name) => own.find(({ key }) => key === `${list}/${name}`)!);
}

function titleOf({ key }: MeasureReport): string {
  const { name } = splitKey(key);
  return isShare(name) ? `${measureTitle(name)}, %` : measureTitle(name);
}

const withBounds = ({ mean, low, high }: Interval, show: (value: number) => string): string =>
  `${show(mean)}${bounds(low, high, show)}`;

const bounds = (low: number | null, high: number | null, show: (value: number) => string): string =>
  low === null || high === null ? "" : ` [${show(low)}, ${show(high)}]`;

const showRatio = (ratio: number): string => (Number.isFinite(ratio) ? ratio.toFixed(2) : "never");

/** Whether an interval lies on one side of a value. */
const excludes = ({ low, high }: Interval, value: number): boolean =>
  low !== null && high !== null && (low > value || high < value);
