/** Writes the report of a comparison into its folder. */
import { basename, join, resolve } from "node:path";
import { writeFileAtomic, writeJson } from "../base/files.js";
import { renderSvg } from "../images/index.js";
import { figuresOf } from "./figures.js";
import { gridFile, readGrid } from "./grid.js";
import { reportPage } from "./page.js";
import { buildReport, takesPart, type Report, type ReportOptions } from "./report.js";
import { detailTables, summaryTables, tablesMarkdown } from "./tables.js";

/** A report and the files that hold it. */
export interface WrittenReport {
  readonly report: Report;
  /** For people: the page and the Markdown. */
  readonly files: readonly string[];
}

/**
 * Writes report.json, report.md, report.html and a PNG of each figure.
 *
 * @throws InputError when the folder holds no comparison, or no run of the baseline that is measured
 */
export function writeReport(folder: string, options: ReportOptions = {}): WrittenReport {
  const report = buildReport(folder, readGrid(gridFile(folder)), options);
  const title = `Comparison ${basename(resolve(folder))}`;
  const how = explanation(report);
  const figures = figuresOf(report, { legend: true });
  for (const { name, svg } of figures) writeFileAtomic(join(folder, `${name}.png`), renderSvg(svg));
  const pictures = figures.map(({ name }) => `![${name}](${name}.png)\n`).join("\n");
  const [summary, details] = [summaryTables(report), detailTables(report)].map(tablesMarkdown);
  const markdown = [`# ${title}`, how, summary, pictures, details].join("\n\n");
  const files = ["report.html", "report.md"].map((name) => join(folder, name));
  writeJson(join(folder, "report.json"), report);
  writeFileAtomic(files[0]!, reportPage(title, report, how));
  writeFileAtomic(files[1]!, markdown);
  return { report, files };
}

function explanation({ settings, seeds, baseline, runs }: Report): string {
  const left = runs.length - runs.filter(takesPart(runs)).length;
  return (
    `${settings.length} settings, seeds ${seeds.join(", ")}, against ${baseline}. ` +
    (left > 0 ? `${left} unfinished ${left === 1 ? "run is" : "runs are"} left out. ` : "") +
    "Intervals are 95% percentile bootstrap intervals over seeds, for the prompts that were evaluated; between " +
    "evaluations the measures of a run are taken as linear."
  );
}
