/**
 * The report as one HTML file without outside resources: figures as SVG, whose points tell their values, a legend that
 * shows and hides settings, and all tables.
 */
import { escape, stylesOf } from "../images/index.js";
import { figuresOf, ordered } from "./figures.js";
import type { Report } from "./report.js";
import { detailTables, summaryTables, type Table } from "./tables.js";

export function reportPage(title: string, report: Report, how: string): string {
  const styles = stylesOf(ordered(report));
  const legend = styles.map(({ name, colour, dash }, i) => {
    const line = `<svg width="30" height="10"><line x1="2" y1="5" x2="28" y2="5" stroke="${colour}" stroke-width="2.5"${dash === undefined ? "" : ` stroke-dasharray="${dash}"`}/></svg>`;
    const note = i === 0 ? " (baseline)" : "";
    return `<label data-key="${i}"><input type="checkbox" checked>${line}${escape(name)}${note}</label>`;
  });
  const figures = figuresOf(report, { legend: false }).map(({ svg }) => `<figure>${fluid(svg)}</figure>`);
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${escape(title)}</title>
<style>${STYLE}</style>
<h1>${escape(title)}</h1>
<p>${escape(how)}</p>
<nav>${legend.join("")}</nav>
${summaryTables(report).map(tableHtml).join("\n")}
${figures.join("\n")}
${detailTables(report).map(tableHtml).join("\n")}
<script>${SCRIPT}</script>
</html>
`;
}

/** An SVG that shrinks with the page. */
function fluid(svg: string): string {
  const [, width, height] = /^<svg [^>]*width="([\d.]+)" height="([\d.]+)"/.exec(svg)!;
  return svg.replace(
    /width="[\d.]+" height="[\d.]+"/,
    `viewBox="0 0 ${width} ${height}" style="width:100%;max-width:${width}px"`,
  );
}

function tableHtml({ title, note, head, rows }: Table): string {
  const cells = rows.map((row) => {
    const own = row.map(({ text, strong }, i) => {
      const content = strong === true ? `<b>${escape(text)}</b>` : escape(text);
      return i === 0 ? `<th scope="row">${content}</th>` : `<td>${content}</td>`;
    });
    return `<tr>${own.join("")}</tr>`;
  });
  const heads = head.map((text) => `<th scope="col">${escape(text)}</th>`).join("");
  return (
    `<section><h2>${escape(title)}</h2><p>${escape(note)}</p>` +
    `<div class="wide"><table><thead><tr>${heads}</tr></thead><tbody>${cells.join("")}</tbody></table></div></section>`
  );
}

const STYLE = `
  body { margin: 2rem auto; padding: 0 1rem; max-width: 1240px; color: #1f2328; background: #fff;
    font: 15px/1.5 Inter, system-ui, sans-serif; }
  h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .25rem; }
  p { margin: .25rem 0 .75rem; color: #57606a; max-width: 60rem; }
  nav { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: .6rem 0;
    background: #fff; border-bottom: 1px solid #e5e7eb; }
  nav label { display: inline-flex; align-items: center; gap: .35rem; cursor: pointer; white-space: nowrap; }
  figure { margin: 1.25rem 0; break-inside: avoid; }
  .wide { overflow-x: auto; }
  table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
  th, td { padding: .3rem .8rem .3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #e5e7eb; }
  td { white-space: nowrap; } thead th { color: #57606a; font-weight: 600; vertical-align: bottom; }
  .off { display: none; } .dim { opacity: .15; }
  @media print { nav { position: static; } input { display: none; } body { margin: 0; max-width: none; } section { break-inside: avoid; } }
`;

const SCRIPT = `
  for (const label of document.querySelectorAll("nav label")) {
    const parts = document.querySelectorAll('[data-series="' + label.dataset.key + '"]');
    const others = document.querySelectorAll('[data-series]:not([data-series="' + label.dataset.key + '"])');
    label.querySelector("input").addEventListener("change", (event) => {
      for (const part of parts) part.classList.toggle("off", !event.target.checked);
    });
    label.addEventListener("mouseenter", () => { for (const other of others) other.classList.add("dim"); });
    label.addEventListener("mouseleave", () => { for (const other of others) other.classList.remove("dim"); });
  }
`;
