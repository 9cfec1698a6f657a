/**
 * The header of a safetensors file, read and checked.
 *
 * Layout: an unsigned 64-bit little-endian length N, N bytes of JSON that map each key to its dtype, shape and byte
 * range, then the data. The ranges must tile the data without holes or overlaps, so that all readers agree on the
 * contents. Source: https://github.com/huggingface/safetensors (format section).
 *
 * Nothing here needs libtorch.
 */
import { closeSync, constants, fstatSync, openSync, readSync, type Stats } from "node:fs";
import { isJsonObject, isNestedTooDeep, type JsonObject } from "../base/files.js";
import { showShape, show as showWhole } from "../base/show.js";
import { SafetensorsError } from "./error.js";

/** Bytes per element, for all dtypes of the format with a whole number of bytes. */
const ELEMENT_SIZES = {
  F64: 8,
  F32: 4,
  F16: 2,
  BF16: 2,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I64: 8,
  I32: 4,
  I16: 2,
  I8: 1,
  U64: 8,
  U32: 4,
  U16: 2,
  U8: 1,
  BOOL: 1,
} as const;

export type SafetensorsDType = keyof typeof ELEMENT_SIZES;

/** One tensor as the header describes it; `begin` and `end` are byte offsets from the start of the file. */
export interface TensorEntry {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly begin: number;
  readonly end: number;
}

export interface SafetensorsHeader {
  readonly file: string;
  readonly size: number;
  /** When the file was written last, in milliseconds: another time means that the header is of another file. */
  readonly modified: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/** The reference implementation's limit; a longer header suggests another kind of file. */
const MAX_HEADER_BYTES = 100_000_000;

/**
 * Reads and checks the header of a safetensors file.
 *
 * @throws SafetensorsError naming the file, and the key if one is at fault, when the file is truncated, is not
 *   safetensors, or describes tensors that do not fit its data
 */
export function readHeader(file: string): SafetensorsHeader {
  const { json, dataStart, size, modified } = readJson(file);
  const tensors = new Map<string, TensorEntry>();
  let metadata: Record<string, string> = {};
  for (const [key, value] of Object.entries(json)) {
    if (key === "__metadata__") metadata = parseMetadata(file, value);
    else tensors.set(key, parseEntry(file, key, value, dataStart, size));
  }
  checkTiling(file, tensors, dataStart, size);
  return { file, size, modified, metadata, tensors };
}

/**
 * Reads a range of the file that a header describes, so that nothing depends on the file afterwards. (A mapping would: a
 * file that shrinks under it ends the process with SIGBUS, one that is written to changes the weights in silence.)
 *
 * A file that is written to between the read and the check of its time cannot be told from one that is not.
 *
 * @param use called with each part in order, and where it begins in the range; the part is overwritten by the next one
 * @throws SafetensorsError when the file is gone, or has been shortened, replaced or written to since the header was read
 */
export function readRange(
  { file, size, modified }: SafetensorsHeader,
  { begin, end }: Pick<TensorEntry, "begin" | "end">,
  use: (part: Uint8Array, at: number) => void,
): void {
  const buffer = Buffer.allocUnsafe(Math.min(end - begin, PART));
  const changed = (received: string): SafetensorsError =>
    new SafetensorsError(file, `Expected the file that was opened but received ${received}`);
  withFile(file, changed, (fd) => {
    for (let at = begin; at < end;) {
      const read = readSync(fd, buffer, 0, Math.min(buffer.length, end - at), at);
      if (read === 0) throw changed(`one of ${fstatSync(fd).size} bytes instead of ${size}`);
      use(buffer.subarray(0, read), at - begin);
      at += read;
    }
    const now = fstatSync(fd);
    if (now.size !== size) throw changed(`one of ${now.size} bytes instead of ${size}`);
    if (now.mtimeMs !== modified) throw changed("one that was written to since");
  });
}

/** Bytes that are read at once. */
const PART = 2 ** 24;

/** Bytes that a tensor of this dtype and shape takes. */
export function byteLength(dtype: SafetensorsDType, shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, ELEMENT_SIZES[dtype]);
}

function readJson(file: string): { json: JsonObject; dataStart: number; size: number; modified: number } {
  const unreadable = (received: string): SafetensorsError =>
    new SafetensorsError(file, `Expected a readable file but received ${received}`);
  return withFile(file, unreadable, (fd, { size, mtimeMs: modified }) => {
    if (size < 8) throw new SafetensorsError(file, `Expected at least 8 bytes but received ${size}`);
    const length = readBytes(file, fd, 8, 0).readBigUInt64LE();
    if (length > BigInt(MAX_HEADER_BYTES)) {
      throw new SafetensorsError(
        file,
        `Expected at most ${MAX_HEADER_BYTES} bytes for the header but received ${length.toString()}; is this a safetensors file?`,
      );
    }
    const dataStart = 8 + Number(length);
    if (dataStart > size) {
      throw new SafetensorsError(
        file,
        `Expected ${dataStart} bytes for the length and the header but received a file of ${size}; it is truncated`,
      );
    }
    return { json: parseJson(file, readBytes(file, fd, Number(length), 8)), dataStart, size, modified };
  });
}

/**
 * Opens a file for `work`. Pipes and devices are refused without waiting for them.
 *
 * @param failure makes an error of what the system says
 */
function withFile<T>(
  file: string,
  failure: (received: string) => SafetensorsError,
  work: (fd: number, stat: Stats) => T,
): T {
  let fd: number | undefined;
  try {
    // Without waiting for the writer of a pipe.
    fd = openSync(file, constants.O_RDONLY | constants.O_NONBLOCK);
    const stat = fstatSync(fd);
    if (stat.isFIFO()) throw new SafetensorsError(file, "Expected a file but received a pipe");
    if (!stat.isFile()) throw new SafetensorsError(file, "Expected a file but received something else");
    return work(fd, stat);
  } catch (cause) {
    throw cause instanceof Error && "syscall" in cause ? failure(cause.message) : cause;
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

function readBytes(file: string, fd: number, length: number, position: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  const read = readSync(fd, bytes, 0, length, position);
  if (read !== length) throw new SafetensorsError(file, `Expected ${length} bytes at ${position} but received ${read}`);
  return bytes;
}

function parseJson(file: string, bytes: Buffer): JsonObject {
  let text: string;
  let json: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    json = JSON.parse(text);
  } catch (cause) {
    throw new SafetensorsError(file, `Expected JSON for the header but received ${describe(cause)}`);
  }
  if (isNestedTooDeep(json)) throw new SafetensorsError(file, "Expected a flat header but received deeply nested JSON");
  if (!isJsonObject(json)) {
    throw new SafetensorsError(file, `Expected a JSON object for the header but received ${show(json)}`);
  }
  const repeated = repeatedKey(text);
  if (repeated !== undefined)
    throw new SafetensorsError(file, "Expected each key once but received it twice", repeated);
  return json;
}

/**
 * A key that occurs twice in an object of this JSON. The format forbids it, because readers disagree on which to use.
 */
function repeatedKey(json: string): string | undefined {
  const open: Set<string>[] = [];
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"\s*:?|[{}]/g)) {
    if (token === "{") open.push(new Set());
    else if (token === "}") open.pop();
    else if (token.endsWith(":")) {
      const key = JSON.parse(token.slice(0, -1)) as string;
      if (open.at(-1)!.has(key)) return key;
      open.at(-1)!.add(key);
    }
  }
  return undefined;
}

function parseMetadata(file: string, value: unknown): Record<string, string> {
  if (!isJsonObject(value) || Object.values(value).some((text) => typeof text !== "string")) {
    throw new SafetensorsError(file, `Expected strings for __metadata__ but received ${show(value)}`);
  }
  return value as Record<string, string>;
}

function parseEntry(file: string, key: string, value: unknown, dataStart: number, size: number): TensorEntry {
  const fail = (expected: string, of: string, received: unknown): never => {
    throw new SafetensorsError(file, `Expected ${expected} for ${of} but received ${show(received)}`, key);
  };
  if (!isJsonObject(value)) return fail("an object", "the entry", value);
  const { dtype, shape, data_offsets: offsets } = value;
  if (typeof dtype !== "string" || !Object.hasOwn(ELEMENT_SIZES, dtype)) {
    return fail(`one of ${Object.keys(ELEMENT_SIZES).join(", ")}`, "dtype", dtype);
  }
  if (!isNaturals(shape)) return fail("a list of natural numbers", "shape", shape);
  if (!isNaturals(offsets) || offsets.length !== 2) return fail("two natural numbers", "data_offsets", offsets);
  const [from, to] = offsets as [number, number];
  if (to < from || dataStart + to > size) {
    return fail(`a range within the file's ${size - dataStart} bytes of data`, "data_offsets", offsets);
  }
  const bytes = byteLength(dtype as SafetensorsDType, shape);
  if (to - from !== bytes) {
    return fail(`${bytes} bytes (${dtype} ${showShape(shape)})`, "data_offsets", offsets);
  }
  return { dtype: dtype as SafetensorsDType, shape, begin: dataStart + from, end: dataStart + to };
}

function checkTiling(file: string, tensors: ReadonlyMap<string, TensorEntry>, dataStart: number, size: number): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let position = dataStart;
  let before = "the header";
  for (const [key, { begin, end }] of inOrder) {
    if (begin !== position) {
      const kind = begin < position ? "an overlap" : "a hole";
      throw new SafetensorsError(
        file,
        `Expected data that starts at byte ${position}, after ${before}, but received ${begin}: ${kind}`,
        key,
      );
    }
    position = end;
    before = key;
  }
  if (position !== size) {
    throw new SafetensorsError(
      file,
      `Expected the file to end at byte ${position}, after ${before}, but received ${size} bytes`,
    );
  }
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0);
}

/** Shortened, because a damaged entry may be long. */
function show(value: unknown): string {
  return showWhole(value, 80);
}

function describe(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
