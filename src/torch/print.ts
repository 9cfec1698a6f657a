/**
 * A tensor's values as text, as PyTorch prints them: four digits, columns aligned, and of a large tensor the edges of each
 * dimension with "..." between. Departures: true and false for booleans, and never more than a page.
 */
import type { DType, TypedArray } from "./dtypes.js";

/** What of a tensor is needed to print it. */
export interface Printable {
  readonly shape: readonly number[];
  readonly dtype: DType;
  select(dim: number, index: number): Printable;
  narrow(dim: number, start: number, length: number): Printable;
  toTypedArray(): TypedArray;
}

/** Tensors of more elements are summarised. */
const MOST_ELEMENTS = 1000;
const LINE_WIDTH = 100;

/** How much of a dimension is shown: so many from the start and from the end; all of it where that covers it. */
interface Edges {
  readonly size: number;
  readonly head: number;
  readonly tail: number;
}

const isWhole = ({ size, head, tail }: Edges): boolean => head + tail >= size;
const shown = (edges: Edges): number => (isWhole(edges) ? edges.size : edges.head + edges.tail);
const product = (numbers: readonly number[]): number => numbers.reduce((all, n) => all * n, 1);

/** Ways to show a tensor, from everything to its first element alone. */
function* choices(shape: readonly number[]): Generator<readonly Edges[]> {
  const edges = (count: (dim: number) => readonly [head: number, tail: number]): readonly Edges[] =>
    shape.map((size, dim) => ({ size, head: count(dim)[0], tail: count(dim)[1] }));
  if (product(shape) <= MOST_ELEMENTS) yield edges((dim) => [shape[dim]!, 0]);
  const outer = (dim: number): boolean => dim < shape.length - 2;
  for (const most of [3, 2, 1]) yield edges((dim) => (outer(dim) ? [most, most] : [3, 3]));
  for (const most of [2, 1]) yield edges((dim) => (outer(dim) ? [1, 0] : [most, most]));
  yield edges(() => [1, 0]);
}

/** The elements that are shown, row-major. Reads no others. */
function read(tensor: Printable, edges: readonly Edges[]): (number | bigint)[] {
  const [first, ...rest] = edges;
  if (first === undefined || edges.every(isWhole)) return Array.from<number | bigint>(tensor.toTypedArray());
  const pieces = isWhole(first)
    ? [[0, first.size] as const]
    : ([[0, first.head] as const, [first.size - first.tail, first.tail] as const] as const);
  return pieces.flatMap(([start, length]) => {
    if (rest.length === 0) return Array.from<number | bigint>(tensor.narrow(0, start, length).toTypedArray());
    return Array.from({ length }, (_, i) => read(tensor.select(0, start + i), rest)).flat();
  });
}

/** Numbers as PyTorch writes them: whole ones as "1.", very large and small ones with exponents, else four digits. */
function format(values: readonly (number | bigint)[], dtype: DType): string[] {
  if (dtype === "bool") return values.map((value) => (value ? "true" : "false"));
  if (dtype !== "float32" && dtype !== "float64" && dtype !== "float16" && dtype !== "bfloat16") {
    return values.map(String);
  }
  const numbers = values.map(Number);
  const sizes = numbers.filter((value) => Number.isFinite(value) && value !== 0).map(Math.abs);
  const largest = sizes.reduce((a, b) => Math.max(a, b), 0);
  const smallest = sizes.reduce((a, b) => Math.min(a, b), Infinity);
  const whole = sizes.every(Number.isInteger);
  const exponents = largest / smallest > 1000 || largest > 1e8 || (!whole && smallest < 1e-4);
  return numbers.map((value) => {
    if (Number.isNaN(value)) return "nan";
    if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
    if (exponents) return value.toExponential(4).replace(/e([+-])(\d)$/, "e$10$2");
    const sign = Object.is(value, -0) ? "-" : "";
    return sign + (whole ? `${value}.` : value.toFixed(4));
  });
}

/** Nested brackets around the cells, each row beginning in the column after `indent`. */
function layOut(cells: readonly string[], edges: readonly Edges[], indent: number): string {
  const [first, ...rest] = edges;
  if (first === undefined) return cells[0]!;
  const count = shown(first);
  if (rest.length === 0) return row(cells, first, indent);
  const stride = cells.length / count;
  const items = Array.from({ length: count }, (_, i) =>
    layOut(cells.slice(i * stride, (i + 1) * stride), rest, indent + 1),
  );
  if (!isWhole(first)) items.splice(first.head, 0, "...");
  return `[${items.join(`,${"\n".repeat(rest.length)}${" ".repeat(indent + 1)}`)}]`;
}

function row(cells: readonly string[], edges: Edges, indent: number): string {
  const items = [...cells];
  if (!isWhole(edges)) items.splice(edges.head, 0, " ...");
  const perLine = Math.max(1, Math.floor((LINE_WIDTH - indent) / ((items[0]?.length ?? 0) + 2)));
  const lines = Array.from({ length: Math.ceil(items.length / perLine) }, (_, i) =>
    items.slice(i * perLine, (i + 1) * perLine).join(", "),
  );
  return `[${lines.join(`,\n${" ".repeat(indent + 1)}`)}]`;
}

/**
 * The values in brackets, over several lines where there are several rows; undefined where not even a summary fits in
 * `mostLines`.
 */
export function printValues(tensor: Printable, mostLines: number): string | undefined {
  if (tensor.shape.includes(0)) return "[]";
  for (const edges of choices(tensor.shape)) {
    if (product(edges.map(shown)) > MOST_ELEMENTS) continue;
    const cells = format(read(tensor, edges), tensor.dtype);
    const width = cells.reduce((most, cell) => Math.max(most, cell.length), 0);
    const text = layOut(
      cells.map((cell) => cell.padStart(width)),
      edges,
      0,
    );
    if (text.split("\n").length <= mostLines) return text;
  }
  return undefined;
}
