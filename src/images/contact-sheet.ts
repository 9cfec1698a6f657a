/** Many images on one page: a plain grid, and a sheet with before and after side by side above each caption. */
import { cat, tidy, type Tensor } from "../torch/index.js";
import { encodePng } from "./png.js";
import { HAIRLINE, MUTED, renderSvg, round, svg, text, wrap } from "./svg.js";

export interface SheetColumn {
  /** Title above the images, such as "before". */
  readonly title?: string;
  /** [3, H, W] in 0..1, the same number for every caption, one below the other; those of the first caption first. */
  readonly images: readonly Tensor[];
}

export interface SheetSection {
  readonly title?: string;
  /** How many of the captions it has. */
  readonly length: number;
}

export interface ContactSheetOptions {
  readonly title?: string;
  readonly subtitle?: string;
  /** Parts with a heading each, as numbers of captions. Default: one without a heading. */
  readonly sections?: readonly SheetSection[];
  /** Captions per row. Default: such that the page is about as wide as it is high. */
  readonly perRow?: number;
  /** Side of an image in points, of two pixels each. Default 112. */
  readonly side?: number;
}

const MARGIN = 32;
const GAP = 24;
const NARROW_GAP = 4;
const CAPTION = { size: 11, lineHeight: 15, most: 2 };

/**
 * A page of captioned images as PNG: for every caption, the columns' images side by side.
 *
 * @param columns as many images in each, one or several per caption
 * @throws RangeError if the images are no multiple of the captions, or another number than the first column's, or
 *   if the sections have another number of captions
 */
export function contactSheet(
  columns: readonly SheetColumn[],
  captions: readonly string[],
  { title, subtitle, sections = [{ length: captions.length }], side = 112, perRow }: ContactSheetOptions = {},
): Uint8Array {
  const count = Math.max(1, Math.round((columns[0]?.images.length ?? 0) / captions.length));
  for (const { images, title: name = "a column" } of columns) {
    if (images.length === count * captions.length) continue;
    throw new RangeError(
      `Expected ${count * captions.length} images, ${count} per caption, for ${name} but received ${images.length}`,
    );
  }
  const inSections = sections.reduce((sum, { length }) => sum + length, 0);
  if (inSections !== captions.length) {
    throw new RangeError(`Expected sections of ${captions.length} captions in all but received ${inSections}`);
  }
  const cellWidth = columns.length * (side + NARROW_GAP) - NARROW_GAP;
  const labelled = columns.some((column) => column.title !== undefined);
  const labelHeight = labelled ? 18 : 0;
  const wrapped = captions.map((caption) => wrap(caption, cellWidth, CAPTION.size, CAPTION.most));
  const lines = Math.max(1, ...wrapped.map(({ length }) => length));
  const imagesHeight = count * (side + NARROW_GAP) - NARROW_GAP;
  const cellHeight = labelHeight + imagesHeight + 8 + lines * CAPTION.lineHeight;
  const aCellIsHigh = (cellHeight + GAP) / (cellWidth + GAP);
  const fitting = Math.ceil(Math.sqrt(captions.length * aCellIsHigh * 1.3));
  const longest = Math.max(1, ...sections.map(({ length }) => length));
  // As many as fit, but rows of a section alike: 8 captions are no row of 7 and a single one.
  const rows = Math.max(1, Math.round(longest / fitting));
  const across = Math.max(1, Math.min(perRow ?? Math.ceil(longest / rows), longest));

  const parts: string[] = [];
  let top = MARGIN;
  if (title !== undefined) {
    parts.push(text(MARGIN, top + 18, title, { size: 20, bold: true }));
    top += 30;
  }
  if (subtitle !== undefined) {
    parts.push(text(MARGIN, top + 12, subtitle, { size: 12, colour: MUTED }));
    top += 24;
  }
  if (title !== undefined || subtitle !== undefined) top += 12;

  const cell = (i: number, x: number, y: number): void => {
    columns.forEach((column, j) => {
      const left = x + j * (side + NARROW_GAP);
      if (column.title !== undefined) parts.push(text(left, y + 11, column.title, { size: 10, colour: MUTED }));
      for (let k = 0; k < count; k++) {
        const down = y + labelHeight + k * (side + NARROW_GAP);
        parts.push(imageTag(left, down, side, column.images[i * count + k]!));
      }
    });
    wrapped[i]!.forEach((line, k) => {
      const baseline = y + labelHeight + imagesHeight + 16 + k * CAPTION.lineHeight;
      parts.push(text(x, baseline, line, { size: CAPTION.size }));
    });
  };
  let first = 0;
  for (const section of sections) {
    if (section.title !== undefined) {
      parts.push(text(MARGIN, top + 13, section.title, { size: 14, bold: true }));
      top += 30;
    }
    for (let i = 0; i < section.length; i++) {
      cell(first + i, MARGIN + (i % across) * (cellWidth + GAP), top + Math.floor(i / across) * (cellHeight + GAP));
    }
    top += Math.ceil(section.length / across) * (cellHeight + GAP);
    first += section.length;
  }

  const width = 2 * MARGIN + across * (cellWidth + GAP) - GAP;
  const height = top - GAP + MARGIN;
  return renderSvg(svg(width, height, parts));
}

/**
 * Images in rows, pixel for pixel, as PNG.
 *
 * @param images [B, 3, H, W] in 0..1
 */
export function imageGrid(images: Tensor, { columns = 8 }: { columns?: number } = {}): Uint8Array {
  const [count = 0, channels = 3, height = 1, width = 1] = images.shape;
  const across = Math.max(1, Math.min(columns, count));
  const rest = (across - (count % across)) % across;
  const grid = tidy(() => {
    const last = images.narrow(0, 0, rest).mul(0).add(1);
    const full = rest === 0 ? images : cat([images, last]);
    const rows = full.reshape([-1, across, channels, height, width]); // [down, across, C, H, W]
    return rows.permute([2, 0, 3, 1, 4]).reshape([channels, -1, across * width]);
  });
  try {
    return encodePng(grid);
  } finally {
    grid.dispose();
  }
}

/** One image with a hairline border, enlarged without smoothing. */
function imageTag(x: number, y: number, side: number, image: Tensor): string {
  const data = Buffer.from(encodePng(image)).toString("base64");
  const place = `x="${round(x)}" y="${round(y)}" width="${side}" height="${side}"`;
  const href = `href="data:image/png;base64,${data}"`;
  return `<image ${place} ${href}/><rect ${place} fill="none" stroke="${HAIRLINE}" stroke-width="0.5"/>`;
}
