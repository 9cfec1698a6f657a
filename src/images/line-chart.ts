/** Curves over stages or another quantity, with bands for their spread. */
import { HAIRLINE, INK, MUTED, PAPER, renderSvg, round, svg, text } from "./svg.js";

export interface Series {
  readonly name: string;
  readonly values: readonly number[];
  /** The x of each value, ascending. Default: 1 apart, from `firstX`. */
  readonly x?: readonly number[];
  /** Half the band's height at each value, such as a standard error. */
  readonly spread?: readonly number[];
  /** The band's ends at each value, in place of `spread`. */
  readonly band?: readonly { readonly low: number; readonly high: number }[];
}

export interface LineChartOptions {
  readonly title?: string;
  readonly subtitle?: string;
  readonly xLabel?: string;
  readonly yLabel?: string;
  /** The x of the first value, where a series does not have its own. Default 0. */
  readonly firstX?: number;
  readonly width?: number;
  readonly height?: number;
}

/** Okabe and Ito's colours, which colour-blind people can distinguish, and four more for charts of many curves. */
const COLOURS = [
  "#0072b2",
  "#d55e00",
  "#009e73",
  "#cc79a7",
  "#e69f00",
  "#56b4e9",
  "#000000",
  "#999999",
  "#117733",
  "#882255",
];

interface Scale {
  readonly ticks: readonly number[];
  at(value: number): number;
}

interface Point {
  readonly x: number;
  readonly value: number;
  readonly low: number;
  readonly high: number;
}

/** A chart as PNG. Values that are not finite leave a gap. */
export function lineChart(
  series: readonly Series[],
  { title, subtitle, xLabel = "stage", yLabel, firstX = 0, width = 720, height = 400 }: LineChartOptions = {},
): Uint8Array {
  const top = 28 + (title === undefined ? 0 : 26) + (subtitle === undefined ? 0 : 20) + (yLabel === undefined ? 0 : 26);
  const box = { left: 64, right: width - 28, top, bottom: height - 52 };
  const curves = series.map((own) => pointsOf(own, firstX));
  const all = curves.flat();
  const y = scale(lowest(all.map(({ low }) => low)), highest(all.map(({ high }) => high)), box.bottom, box.top, 5);
  const xs = series.flatMap((own) => own.x ?? [firstX, firstX + Math.max(1, own.values.length) - 1]);
  const x = scale(lowest(xs), highest(xs), box.left, box.right, 8, { exact: true, whole: xs.every(Number.isInteger) });

  const parts: string[] = [];
  let line = 34;
  if (title !== undefined) {
    parts.push(text(24, line, title, { size: 18, bold: true }));
    line += 22;
  }
  if (subtitle !== undefined) parts.push(text(24, line, subtitle, { size: 12, colour: MUTED }));
  if (yLabel !== undefined) parts.push(text(24, box.top - 16, yLabel, { size: 11, colour: MUTED }));
  for (const tick of y.ticks) {
    parts.push(hairline(box.left, y.at(tick), box.right, y.at(tick)));
    const label = tickLabel(tick, y.ticks);
    parts.push(text(box.left - 10, y.at(tick) + 4, label, { size: 11, colour: MUTED, anchor: "end" }));
  }
  for (const tick of x.ticks) {
    parts.push(text(x.at(tick), box.bottom + 20, String(tick), { size: 11, colour: MUTED, anchor: "middle" }));
  }
  parts.push(text((box.left + box.right) / 2, height - 14, xLabel, { size: 11, colour: MUTED, anchor: "middle" }));

  curves.forEach((points, i) => {
    const colour = COLOURS[i % COLOURS.length]!;
    if (series[i]!.spread !== undefined || series[i]!.band !== undefined) {
      const upper = points.map((p) => `${round(x.at(p.x))},${round(y.at(p.high))}`);
      const lower = points.toReversed().map((p) => `${round(x.at(p.x))},${round(y.at(p.low))}`);
      parts.push(`<polygon points="${[...upper, ...lower].join(" ")}" fill="${colour}" fill-opacity="0.14"/>`);
    }
    const path = points.map((p) => `${round(x.at(p.x))},${round(y.at(p.value))}`).join(" ");
    const stroke = `stroke="${colour}" stroke-width="2" stroke-linejoin="round" stroke-linecap="round"`;
    parts.push(`<polyline points="${path}" fill="none" ${stroke}/>`);
    const last = points.at(-1);
    if (last === undefined) return;
    const [cx, cy] = [round(x.at(last.x)), round(y.at(last.value))];
    parts.push(`<circle cx="${cx}" cy="${cy}" r="3.5" fill="${colour}" stroke="${PAPER}" stroke-width="1.5"/>`);
  });
  if (series.length > 1) parts.push(...legend(series, box.right));
  return renderSvg(svg(width, height, parts));
}

/** The finite values of a series; a band whose end is not finite closes there. */
function pointsOf({ values, x, spread, band }: Series, firstX: number): Point[] {
  const end = (given: number | undefined, value: number): number =>
    given !== undefined && Number.isFinite(given) ? given : value;
  const points = values.map((value, i): Point => {
    const half = spread?.[i] ?? 0;
    const { low, high } = band?.[i] ?? { low: value - half, high: value + half };
    return { x: x?.[i] ?? firstX + i, value, low: end(low, value), high: end(high, value) };
  });
  return points.filter(({ value }) => Number.isFinite(value));
}

const lowest = (values: readonly number[]): number => values.reduce((least, value) => Math.min(least, value), Infinity);
const highest = (values: readonly number[]): number => values.reduce((most, value) => Math.max(most, value), -Infinity);

/** The legend: a dot and a name for each series, right-aligned. Text widths are estimated generously. */
function legend(series: readonly Series[], right: number): string[] {
  const widths = series.map(({ name }) => name.length * 7.4 + 26);
  let x = right - widths.reduce((sum, width) => sum + width, 0) + 14;
  return series.flatMap(({ name }, i) => {
    const dot = `<circle cx="${round(x)}" cy="30" r="4" fill="${COLOURS[i % COLOURS.length]}"/>`;
    const label = text(x + 9, 34, name, { size: 12, colour: INK });
    x += widths[i]!;
    return [dot, label];
  });
}

function hairline(x1: number, y1: number, x2: number, y2: number): string {
  return `<line x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}" stroke="${HAIRLINE}"/>`;
}

/** A linear scale whose ticks are 1, 2 or 5 times a power of ten apart. */
function scale(
  from: number,
  to: number,
  start: number,
  end: number,
  count: number,
  { exact = false, whole = false }: { exact?: boolean; whole?: boolean } = {},
): Scale {
  if (!Number.isFinite(from) || !Number.isFinite(to)) [from, to] = [0, 1];
  if (from === to && !exact) [from, to] = [from - 0.5 * (Math.abs(from) || 1), to + 0.5 * (Math.abs(to) || 1)];
  const rough = (to - from || 1) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((candidate) => candidate >= rough * 0.999)!;
  const stride = whole ? Math.max(1, Math.round(step)) : step;
  const low = exact ? from : Math.floor(from / stride + 1e-9) * stride;
  const high = exact ? to : Math.ceil(to / stride - 1e-9) * stride;
  const first = Math.ceil(low / stride - 1e-9);
  const ticks = Array.from({ length: Math.floor(high / stride + 1e-9) - first + 1 }, (_, i) => (first + i) * stride);
  const span = high - low || 1;
  return { ticks, at: (value) => start + ((value - low) / span) * (end - start) };
}

/** Formats a tick with as many decimals as the step between ticks needs. */
function tickLabel(tick: number, ticks: readonly number[]): string {
  const distance = Math.abs((ticks[1] ?? 1) - (ticks[0] ?? 0));
  const decimals = Math.max(0, -Math.floor(Math.log10(distance || 1) + 1e-9));
  return tick.toFixed(Math.min(decimals, 6));
}
