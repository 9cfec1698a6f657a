/** Renders SVG to PNG with resvg and the Inter font, so that charts look the same on machines without fonts. */
import { createRequire } from "node:module";
import { Resvg } from "@resvg/resvg-js";

const require = createRequire(import.meta.url);
const FONT_FILES = ["400Regular/Inter_400Regular.ttf", "600SemiBold/Inter_600SemiBold.ttf"];

export const INK = "#1f2328";
export const MUTED = "#6b7280";
export const HAIRLINE = "#e5e7eb";
export const PAPER = "#ffffff";

/** Renders an SVG as PNG at twice its size, for high-density screens. */
const DENSITY = 2;

export function renderSvg(svg: string): Uint8Array {
  const fontFiles = FONT_FILES.map((file) => require.resolve(`@expo-google-fonts/inter/${file}`));
  const font = { loadSystemFonts: false, fontFiles, defaultFontFamily: "Inter" };
  return new Resvg(svg, { font, fitTo: { mode: "zoom", value: DENSITY } }).render().asPng();
}

export interface TextStyle {
  readonly size: number;
  readonly colour?: string;
  readonly bold?: boolean;
  readonly anchor?: "start" | "middle" | "end";
}

/** A line of text whose baseline is at y. */
export function text(
  x: number,
  y: number,
  content: string,
  { size, colour = INK, bold = false, anchor = "start" }: TextStyle,
): string {
  const attributes = `x="${round(x)}" y="${round(y)}" font-size="${size}" fill="${colour}" text-anchor="${anchor}"`;
  return `<text ${attributes} font-family="Inter" font-weight="${bold ? 600 : 400}">${escape(content)}</text>`;
}

export function svg(width: number, height: number, parts: readonly string[]): string {
  const size = `width="${round(width)}" height="${round(height)}"`;
  const paper = `<rect ${size} fill="${PAPER}"/>`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>${paper}${parts.join("")}</svg>`;
}

export function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** Wraps text to a width in pixels, which is estimated: Inter's letters are 0.55 of the font size wide on average. */
export function wrap(content: string, width: number, size: number, maxLines = 2): string[] {
  const most = Math.max(4, Math.floor(width / (size * 0.55)));
  const lines = [""];
  for (const word of content.split(/\s+/)) {
    const line = lines.at(-1)!;
    if (line === "" || line.length + 1 + word.length <= most) lines[lines.length - 1] = `${line} ${word}`.trim();
    else lines.push(word);
  }
  const kept = lines.slice(0, maxLines).map((line) => (line.length > most ? `${line.slice(0, most - 1)}…` : line));
  if (lines.length > maxLines) kept[maxLines - 1] = `${kept[maxLines - 1]!.slice(0, most - 1)}…`;
  return kept;
}

/** Text for SVG or HTML, also within attributes. */
export function escape(content: string): string {
  const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return content.replace(/[&<>"]/g, (letter) => entities[letter]!);
}
