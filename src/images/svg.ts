/**
 * Renders SVG to PNG with resvg and the Inter font, so that charts look the same on machines without fonts. resvg is
 * native code; it is loaded at the first picture, so that commands without one start sooner.
 */
import { createRequire } from "node:module";
import type { Resvg } from "@resvg/resvg-js";

const require = createRequire(import.meta.url);
const FONT_FILES = ["400Regular/Inter_400Regular.ttf", "600SemiBold/Inter_600SemiBold.ttf"];

export const INK = "#1f2328";
export const MUTED = "#6b7280";
export const HAIRLINE = "#e5e7eb";
export const PAPER = "#ffffff";

/** Renders an SVG as PNG at twice its size, for high-density screens. */
const DENSITY = 2;

export function renderSvg(svg: string): Uint8Array {
  const resvg = require("@resvg/resvg-js") as { Resvg: typeof Resvg };
  const fontFiles = FONT_FILES.map((file) => require.resolve(`@expo-google-fonts/inter/${file}`));
  // The system's fonts only for what Inter lacks, such as Chinese: pictures of everything else are the same everywhere.
  const loadSystemFonts = /[^\0-\u052f\u1e00-\u214f\ufffd]/.test(svg);
  const font = { loadSystemFonts, fontFiles, defaultFontFamily: "Inter" };
  return new resvg.Resvg(svg, { font, fitTo: { mode: "zoom", value: DENSITY } }).render().asPng();
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

/** How wide Inter's letters are on average, as a share of the font size. */
const LETTER = 0.55;

/** Chinese, Japanese and Korean, whose letters are squares, and between which lines may break. */
const SQUARE = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Hangul}\u3000-\u303f\uff00-\uffef]/u;

/** Wraps text to a width in pixels, which is estimated. */
export function wrap(content: string, width: number, size: number, maxLines = 2): string[] {
  const most = Math.max(4, Math.floor(width / (size * LETTER)));
  const lines = [""];
  for (const { piece, space } of piecesOf(content)) {
    const line = lines.at(-1)!;
    const longer = `${line}${space}${piece}`;
    if (line === "" || lettersIn(longer) <= most) lines[lines.length - 1] = longer.trim();
    else lines.push(piece);
  }
  const kept = lines.slice(0, maxLines).map((line) => (lettersIn(line) > most ? `${cut(line, most - 1)}…` : line));
  if (lines.length > maxLines) kept[maxLines - 1] = `${cut(kept[maxLines - 1]!, most - 1)}…`;
  return kept;
}

/** Words, and square letters one by one, each with the space before it. */
function piecesOf(content: string): { readonly piece: string; readonly space: string }[] {
  return content.split(/\s+/).flatMap((word) => {
    const pieces = word.split(new RegExp(`(${SQUARE.source})`, "u")).filter((piece) => piece !== "");
    return pieces.map((piece, i) => ({ piece, space: i === 0 ? " " : "" }));
  });
}

/** The width of a text in average letters. */
const lettersIn = (line: string): number =>
  Array.from(line, (letter) => (SQUARE.test(letter) ? 1 / LETTER : 1)).reduce((sum, one) => sum + one, 0);

/** The beginning of a text, as many average letters wide at most. */
function cut(line: string, most: number): string {
  const letters = Array.from(line);
  while (lettersIn(letters.join("")) > most) letters.pop();
  return letters.join("");
}

/** Text for SVG or HTML, also within attributes. */
export function escape(content: string): string {
  const entities: Record<string, string> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return content.replace(NOT_IN_XML, "\ufffd").replace(/[&<>"]/g, (letter) => entities[letter]!);
}

/**
 * Characters that XML cannot hold, not even as entities (control characters, and halves of pairs), and those that turn the
 * direction of what follows around.
 */
const NOT_IN_XML = /[^\t\n -\u007e\u00a0-\u2027\u202f-\u2065\u206a-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu;
