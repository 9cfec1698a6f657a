/**
 * Panels of curves with bands, and of points with error bars, side by side under one legend. As SVG, for a page or for
 * `renderSvg`. The parts of a series carry its number (`data-series`), so that a page can show and hide them.
 */
import { escape, HAIRLINE, INK, MUTED, PAPER, round, svg, text } from "./svg.js";

/** How a series is drawn, the same in all panels. */
export interface SeriesStyle {
  readonly name: string;
  readonly colour: string;
  /** An SVG dash pattern; undefined for a solid line. */
  readonly dash?: string | undefined;
}

/** A point with the ends of its intervals; without them, no band and no bar. */
export interface PlotPoint {
  readonly x: number;
  readonly y: number;
  readonly xLow?: number | null;
  readonly xHigh?: number | null;
  readonly yLow?: number | null;
  readonly yHigh?: number | null;
}

/** A series in one panel. */
export interface PlotSeries {
  /** Index of its style. */
  readonly style: number;
  /** A line from point to point. */
  readonly line: readonly PlotPoint[];
  /** Whether the line has a band between the ends of its intervals. */
  readonly band?: boolean;
  /** Points that are marked, with bars for their intervals. */
  readonly marks?: readonly PlotPoint[];
}

export interface Panel {
  readonly title?: string;
  readonly xLabel: string;
  readonly series: readonly PlotSeries[];
  /** A horizontal line with its label. */
  readonly level?: { readonly y: number; readonly label: string } | undefined;
  /** Whether the x axis begins at 0. */
  readonly fromZero?: boolean;
  /** Formats x and y values for tick labels and tooltips. */
  readonly showX?: (value: number) => string;
  readonly showY?: (value: number) => string;
}

export interface FigureOptions {
  readonly title: string;
  readonly subtitle?: string;
  /** Above every panel, beside its y axis. */
  readonly yLabel: string;
  readonly panelWidth?: number;
  readonly panelHeight?: number;
  /** Whether all panels have the same y axis. Default true. */
  readonly sharedY?: boolean;
  readonly legend?: boolean;
}

const MARGIN = { left: 62, right: 18, top: 40, bottom: 46 };
const LEGEND_LINE = 20;

/** Colours that colour-blind people can distinguish (Okabe and Ito; the first is for a baseline), then dashed again. */
const COLOURS = ["#1f2328", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = [undefined, "7 4", "2 3"];

/** Styles for names: the first in black, for what the others are compared with. */
export const stylesOf = (names: readonly string[]): SeriesStyle[] =>
  names.map((name, i) => {
    const [colour, round] =
      i === 0 ? [0, 0] : [1 + ((i - 1) % (COLOURS.length - 1)), Math.floor((i - 1) / (COLOURS.length - 1))];
    return { name, colour: COLOURS[colour]!, dash: DASHES[round % DASHES.length] };
  });

/** Panels side by side as one SVG. */
export function figure(
  panels: readonly Panel[],
  styles: readonly SeriesStyle[],
  { title, subtitle, yLabel, panelWidth = 400, panelHeight = 290, sharedY = true, legend = true }: FigureOptions,
): string {
  const width = Math.max(1, panels.length) * panelWidth;
  const used = styles
    .map((style, i) => ({ style, i }))
    .filter(({ i }) => panels.some(({ series }) => series.some((one) => one.style === i)));
  const keys = legend ? legendOf(used, width - 24) : { parts: [], lines: 0 };
  const head = 38 + (subtitle === undefined ? 0 : 18);
  const top = head + keys.lines * LEGEND_LINE + (keys.lines > 0 ? 6 : 0);
  const parts = [text(20, 28, title, { size: 17, bold: true })];
  if (subtitle !== undefined) parts.push(text(20, 48, subtitle, { size: 12, colour: MUTED }));
  parts.push(translated(0, head + 4, keys.parts));
  const bounds = panels.map(yBounds);
  const all: [number, number] = [Math.min(...bounds.map(([low]) => low)), Math.max(...bounds.map(([, high]) => high))];
  panels.forEach((panel, i) => {
    const drawn = drawPanel(panel, styles, {
      yLabel,
      width: panelWidth,
      height: panelHeight,
      y: sharedY ? all : bounds[i]!,
    });
    parts.push(translated(i * panelWidth, top, drawn));
  });
  return svg(width, top + panelHeight, parts);
}

const translated = (x: number, y: number, parts: readonly string[]): string =>
  `<g transform="translate(${round(x)} ${round(y)})">${parts.join("")}</g>`;

/** Lines with names, in as many rows as they need. Text widths are estimated generously. */
function legendOf(
  used: readonly { style: SeriesStyle; i: number }[],
  width: number,
): { parts: string[]; lines: number } {
  let [x, row] = [20, 0];
  const parts = used.map(({ style, i }) => {
    const own = 34 + style.name.length * 7.2 + 22;
    if (x + own > width && x > 20) [x, row] = [20, row + 1];
    const y = row * LEGEND_LINE + 10;
    const line = `<line x1="${round(x)}" y1="${y}" x2="${round(x + 26)}" y2="${y}" ${strokeOf(style)}/>`;
    const label = text(x + 34, y + 4, style.name, { size: 12, colour: INK });
    x += own;
    return `<g data-series="${i}">${line}${label}</g>`;
  });
  return { parts, lines: used.length === 0 ? 0 : row + 1 };
}

const strokeOf = ({ colour, dash }: SeriesStyle): string =>
  `stroke="${colour}" stroke-width="2" stroke-linejoin="round" stroke-linecap="round"` +
  (dash === undefined ? "" : ` stroke-dasharray="${dash}"`);

/** Dashed series have hollow dots, so that they differ from the solid ones of their colour where lines are short. */
const dotOf = ({ colour, dash }: SeriesStyle): string =>
  dash === undefined ? `fill="${colour}" stroke="${PAPER}"` : `fill="${PAPER}" stroke="${colour}" stroke-width="1.6"`;

interface PanelBox {
  readonly yLabel: string;
  readonly width: number;
  readonly height: number;
  readonly y: readonly [number, number];
}

function drawPanel(
  panel: Panel,
  styles: readonly SeriesStyle[],
  { yLabel, width, height, y: [from, to] }: PanelBox,
): string[] {
  const { title, xLabel, series, level, fromZero = true, showX = plain, showY = plain } = panel;
  const box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
  const xs = series.flatMap(({ line, marks = [] }) =>
    [...line, ...marks].flatMap(({ x, xLow, xHigh }) => [x, xLow ?? x, xHigh ?? x]),
  );
  const x = scaleOf(fromZero ? 0 : Math.min(...xs), Math.max(...xs), box.left, box.right, { exact: fromZero });
  const y = scaleOf(from, to, box.bottom, box.top);
  const parts: string[] = [];
  if (title !== undefined) parts.push(text(box.left, 14, title, { size: 13, bold: true }));
  parts.push(text(box.left, 30, yLabel, { size: 11, colour: MUTED }));
  for (const tick of y.ticks) {
    parts.push(
      `<line x1="${box.left}" y1="${round(y.at(tick))}" x2="${box.right}" y2="${round(y.at(tick))}" stroke="${HAIRLINE}"/>`,
    );
    parts.push(text(box.left - 8, y.at(tick) + 4, showY(tick), { size: 11, colour: MUTED, anchor: "end" }));
  }
  for (const tick of x.ticks) {
    parts.push(text(x.at(tick), box.bottom + 18, showX(tick), { size: 11, colour: MUTED, anchor: "middle" }));
  }
  parts.push(text((box.left + box.right) / 2, height - 8, xLabel, { size: 11, colour: MUTED, anchor: "middle" }));
  const place = (p: PlotPoint): string => `${round(x.at(p.x))},${round(y.at(p.y))}`;
  const bands = series
    .filter(({ band }) => band === true)
    .map(({ style, line }) => {
      const upper = line.map((p) => place({ x: p.x, y: p.yHigh ?? p.y }));
      const lower = line.toReversed().map((p) => place({ x: p.x, y: p.yLow ?? p.y }));
      return `<polygon data-series="${style}" points="${[...upper, ...lower].join(" ")}" fill="${styles[style]!.colour}" fill-opacity="0.13"/>`;
    });
  parts.push(...bands);
  if (level !== undefined) {
    const at = round(y.at(level.y));
    parts.push(
      `<line x1="${box.left}" y1="${at}" x2="${box.right}" y2="${at}" stroke="${MUTED}" stroke-dasharray="3 3"/>`,
    );
    parts.push(text(box.left + 4, at - 5, level.label, { size: 10, colour: MUTED }));
  }
  for (const { style, line, marks = [] } of series) {
    const one = styles[style]!;
    const path = `<polyline points="${line.map(place).join(" ")}" fill="none" ${strokeOf(one)}/>`;
    const bars = marks.map((mark) => {
      const said = `${one.name}: ${showY(mark.y)}${range(mark.yLow, mark.yHigh, showY)} at ${showX(mark.x)}${range(mark.xLow, mark.xHigh, showX)}`;
      const [cx, cy] = [round(x.at(mark.x)), round(y.at(mark.y))];
      const bar = (x1: number, y1: number, x2: number, y2: number): string =>
        `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" stroke="${one.colour}" stroke-width="1.2"/>`;
      const own = [
        ...(mark.xLow == null || mark.xHigh == null ? [] : [bar(x.at(mark.xLow), cy, x.at(mark.xHigh), cy)]),
        ...(mark.yLow == null || mark.yHigh == null || series.some(({ band }) => band)
          ? []
          : [bar(cx, y.at(mark.yLow), cx, y.at(mark.yHigh))]),
        `<circle cx="${cx}" cy="${cy}" r="3.2" ${dotOf(one)}><title>${escape(said)}</title></circle>`,
      ];
      return own.join("");
    });
    parts.push(`<g data-series="${style}">${path}${bars.join("")}</g>`);
  }
  return parts;
}

const range = (
  low: number | null | undefined,
  high: number | null | undefined,
  show: (value: number) => string,
): string => (low == null || high == null ? "" : ` [${show(low)}, ${show(high)}]`);

function yBounds({ series, level }: Panel): [number, number] {
  const ys = series.flatMap(({ line, marks = [] }) =>
    [...line, ...marks].flatMap(({ y, yLow, yHigh }) => [y, yLow ?? y, yHigh ?? y]),
  );
  const all = level === undefined ? ys : [...ys, level.y];
  return [Math.min(...all), Math.max(...all)];
}

interface Scale {
  readonly ticks: readonly number[];
  at(value: number): number;
}

/** A linear scale with ticks 1, 2 or 5 times a power of ten apart; `exact` ends at the values, else at ticks. */
function scaleOf(
  from: number,
  to: number,
  start: number,
  end: number,
  { exact = false }: { exact?: boolean } = {},
): Scale {
  if (!Number.isFinite(from) || !Number.isFinite(to)) [from, to] = [0, 1];
  if (from === to) [from, to] = [from - 0.5 * (Math.abs(from) || 1), to + 0.5 * (Math.abs(to) || 1)];
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((candidate) => candidate >= rough * 0.999)!;
  const [low, high] = exact ? [from, to] : [Math.floor(from / step + 1e-9) * step, Math.ceil(to / step - 1e-9) * step];
  const first = Math.ceil(low / step - 1e-9);
  const ticks = Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
  return { ticks, at: (value) => start + ((value - low) / (high - low)) * (end - start) };
}

/** A number without the noise of its arithmetic, and long ones short: 12k. */
function plain(value: number): string {
  if (Math.abs(value) >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (Math.abs(value) >= 1e4) return `${Number((value / 1e3).toPrecision(3))}k`;
  return String(Number(value.toPrecision(4)));
}
