/**
 * The spec reporter of node's test runner with coverage of src/ only, one line per folder: `npm run coverage`. The
 * table of Node 20 lists every loaded file, including tests and scripts, and cannot be restricted.
 */
import { relative } from "node:path";
import { Readable } from "node:stream";
import { spec } from "node:test/reporters";

/**
 * What node counted in a file.
 * @typedef {object} FileCoverage
 * @property {string} path
 * @property {number} totalLineCount
 * @property {number} coveredLineCount
 * @property {number} totalBranchCount
 * @property {number} coveredBranchCount
 * @property {number} totalFunctionCount
 * @property {number} coveredFunctionCount
 */

/** @typedef {{ workingDirectory: string, files: FileCoverage[] }} Summary */

const COLUMNS = /** @type {const} */ ({ lines: "Line", branches: "Branch", functions: "Function" });

/**
 * @param {string} name
 * @param {readonly FileCoverage[]} files
 */
function row(name, files) {
  const shares = Object.values(COLUMNS).map((what) => {
    const covered = files.reduce((sum, file) => sum + file[`covered${what}Count`], 0);
    const total = files.reduce((sum, file) => sum + file[`total${what}Count`], 0);
    return `${(total === 0 ? 100 : (100 * covered) / total).toFixed(1)}%`.padStart(11);
  });
  return `${name.padEnd(36)}${shares.join("")}\n`;
}

/** @param {Summary} summary */
function table({ workingDirectory, files }) {
  /** @type {Map<string, FileCoverage[]>} */
  const folders = new Map();
  for (const file of files) {
    const path = relative(workingDirectory, file.path).replace(/^dist\//, "");
    if (!path.startsWith("src/") || /\.(test|fixture)\./.test(path)) continue;
    const folder = path.split("/").slice(0, -1).join("/");
    folders.set(folder, [...(folders.get(folder) ?? []), file]);
  }
  const rows = [...folders].sort(([a], [b]) => a.localeCompare(b)).map(([folder, inside]) => row(folder, inside));
  const titles = Object.keys(COLUMNS).map((title) => title.padStart(11));
  return ["\n", `${"coverage".padEnd(36)}${titles.join("")}\n`, ...rows, row("all", [...folders.values()].flat())];
}

/** @param {AsyncIterable<{ type: string, data: any }>} events */
export default async function* coverage(events) {
  /** @type {Summary | undefined} */
  let summary;
  async function* others() {
    for await (const event of events) {
      if (event.type === "test:coverage") summary = event.data.summary;
      else yield event;
    }
  }
  yield* Readable.from(others()).pipe(new spec());
  if (summary !== undefined) yield* table(summary);
}
