/**
 * Python's pickles as plain data, for servers that speak them. Only None, bool, int, float, str, bytes, list, tuple and
 * dict can be written and read. Everything by which a pickle can name or call something in Python is refused, so that
 * reading one runs nothing.
 *
 * Source: the opcodes of Python's pickletools. Written is protocol 3, which Python 3.0 and later read; read are protocols
 * 2 to 5. Departures: a tuple is read as a list, and opcodes that Python's pickler writes for no plain data are refused.
 */
import { InputError } from "../../base/errors.js";

/** What is no pickle of plain data. */
export class PickleError extends InputError {
  override readonly name = "PickleError";
}

/** What can be written. Whole numbers are int, others float. */
export type Picklable =
  null | boolean | number | bigint | string | Uint8Array | readonly Picklable[] | { readonly [key: string]: Picklable };

/** What is read: an int is a number where it can be one exactly, else a bigint. */
export type Unpickled = null | boolean | number | bigint | string | Uint8Array | Unpickled[] | Dictionary;

/** A dict. Its keys are compared as JavaScript does; none can be a tuple or bytes. */
export type Dictionary = Map<Key, Unpickled>;

type Key = null | boolean | number | bigint | string;

/** Deeper values are refused, in reading and in writing. */
const DEEPEST = 100;

/** Opcodes that are read at most; an answer of 64 images takes some hundreds. */
const MOST_OPCODES = 1_000_000;

/** Bytes of the longest int. */
const LONGEST_INT = 256;

/** Values, texts and bytes as often as they are referred to: a list of lists that are the same list is large. */
const MOST_VALUES = 1_000_000;
const MOST_LENGTH = 2 ** 26;

const OP = {
  MARK: 0x28,
  STOP: 0x2e,
  BINFLOAT: 0x47,
  BININT: 0x4a,
  BININT1: 0x4b,
  BININT2: 0x4d,
  NONE: 0x4e,
  BINUNICODE: 0x58,
  EMPTY_LIST: 0x5d,
  APPEND: 0x61,
  APPENDS: 0x65,
  BINGET: 0x68,
  LONG_BINGET: 0x6a,
  BINPUT: 0x71,
  LONG_BINPUT: 0x72,
  SETITEM: 0x73,
  TUPLE: 0x74,
  SETITEMS: 0x75,
  EMPTY_DICT: 0x7d,
  EMPTY_TUPLE: 0x29,
  PROTO: 0x80,
  TUPLE1: 0x85,
  TUPLE2: 0x86,
  TUPLE3: 0x87,
  NEWTRUE: 0x88,
  NEWFALSE: 0x89,
  LONG1: 0x8a,
  LONG4: 0x8b,
  SHORT_BINUNICODE: 0x8c,
  BINUNICODE8: 0x8d,
  BINBYTES: 0x42,
  SHORT_BINBYTES: 0x43,
  BINBYTES8: 0x8e,
  MEMOIZE: 0x94,
  FRAME: 0x95,
} as const;

/** What refused opcodes would do, for errors. */
const REFUSED: Readonly<Record<number, string>> = {
  0x63: "names something in Python (GLOBAL)",
  0x93: "names something in Python (STACK_GLOBAL)",
  0x52: "calls something in Python (REDUCE)",
  0x81: "makes an object of Python (NEWOBJ)",
  0x92: "makes an object of Python (NEWOBJ_EX)",
  0x69: "makes an object of Python (INST)",
  0x6f: "makes an object of Python (OBJ)",
  0x62: "sets the state of an object of Python (BUILD)",
  0x50: "refers to an object elsewhere (PERSID)",
  0x51: "refers to an object elsewhere (BINPERSID)",
  0x82: "names something in Python (EXT1)",
  0x83: "names something in Python (EXT2)",
  0x84: "names something in Python (EXT4)",
};

/**
 * Writes a value as a pickle.
 *
 * @throws PickleError for what is nested more than 100 deep, or no plain data
 */
export function pickle(value: Picklable): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = [Uint8Array.of(OP.PROTO, 3)];
  write(value, parts, 0);
  parts.push(Uint8Array.of(OP.STOP));
  return Buffer.concat(parts);
}

function write(value: Picklable, parts: Uint8Array[], depth: number): void {
  if (depth > DEEPEST) throw new PickleError(`Expected values nested at most ${DEEPEST} deep but received more`);
  if (value === null) parts.push(Uint8Array.of(OP.NONE));
  else if (typeof value === "boolean") parts.push(Uint8Array.of(value ? OP.NEWTRUE : OP.NEWFALSE));
  else if (typeof value === "bigint") parts.push(intBytes(value));
  else if (typeof value === "number") parts.push(numberBytes(value));
  else if (typeof value === "string") parts.push(...withLength(OP.BINUNICODE, Buffer.from(value)));
  else if (value instanceof Uint8Array) parts.push(...withLength(OP.BINBYTES, value));
  else if (isList(value)) {
    parts.push(Uint8Array.of(OP.EMPTY_LIST, OP.MARK));
    for (const item of value) write(item, parts, depth + 1);
    parts.push(Uint8Array.of(OP.APPENDS));
  } else if (typeof value === "object") {
    parts.push(Uint8Array.of(OP.EMPTY_DICT, OP.MARK));
    for (const item of Object.entries(value).flat()) write(item, parts, depth + 1);
    parts.push(Uint8Array.of(OP.SETITEMS));
  } else throw new PickleError(`Expected plain data for a pickle but received ${typeof value}`);
}

const isList = (value: Picklable): value is readonly Picklable[] => Array.isArray(value);

function withLength(opcode: number, bytes: Uint8Array): [Uint8Array, Uint8Array] {
  const head = Buffer.alloc(5);
  head[0] = opcode;
  head.writeUInt32LE(bytes.length, 1);
  return [head, bytes];
}

function numberBytes(value: number): Uint8Array {
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) return intBytes(BigInt(value));
  const bytes = Buffer.alloc(9);
  bytes[0] = OP.BINFLOAT;
  bytes.writeDoubleBE(value, 1);
  return bytes;
}

function intBytes(value: bigint): Uint8Array {
  if (BigInt.asIntN(32, value) === value) {
    const bytes = Buffer.alloc(5);
    bytes[0] = OP.BININT;
    bytes.writeInt32LE(Number(value), 1);
    return bytes;
  }
  let length = 1;
  while (BigInt.asIntN(8 * length, value) !== value) length++;
  if (length >= LONGEST_INT)
    throw new PickleError(`Expected an int of less than ${LONGEST_INT} bytes but received more`);
  const digits = BigInt.asUintN(8 * length, value)
    .toString(16)
    .padStart(2 * length, "0");
  return Buffer.concat([Uint8Array.of(OP.LONG1, length), Buffer.from(digits, "hex").reverse()]);
}

/**
 * Reads a pickle of plain data. Time and memory are bounded by its length, and in all by some hundred megabytes.
 *
 * @throws PickleError naming the byte at fault
 */
export function unpickle(bytes: Uint8Array): Unpickled {
  const value = new Unpickler(bytes).read();
  checkExtent(value);
  return value;
}

/** The machine of pickles: a stack, marks on it, and a memo of values that can be referred to again. */
class Unpickler {
  readonly #bytes: Buffer;
  readonly #stack: Unpickled[] = [];
  /** Heights of the stack. */
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, Unpickled>();
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  read(): Unpickled {
    this.#readHeader();
    for (let opcodes = 0; opcodes < MOST_OPCODES; opcodes++) {
      const opcode = this.#uint(1);
      if (opcode === OP.STOP) return this.#result();
      this.#step(opcode);
    }
    throw this.#error(`at most ${MOST_OPCODES} opcodes`, "more");
  }

  #readHeader(): void {
    const start = this.#bytes.length < 2 ? "too little" : `bytes ${this.#bytes.subarray(0, 2).toString("hex")}`;
    const [opcode, protocol = 0] = this.#bytes;
    if (opcode !== OP.PROTO || protocol < 2 || protocol > 5) throw this.#error("a pickle of protocol 2 to 5", start);
    this.#at = 2;
  }

  #result(): Unpickled {
    if (this.#stack.length !== 1 || this.#marks.length > 0)
      throw this.#error("one value at the end", "none or several");
    if (this.#at !== this.#bytes.length) throw this.#error("the end", "more bytes");
    return this.#stack[0]!;
  }

  #step(opcode: number): void {
    if (this.#isScalar(opcode) || this.#isContainer(opcode)) return;
    switch (opcode) {
      case OP.BINPUT:
        return void this.#memo.set(this.#uint(1), this.#top());
      case OP.LONG_BINPUT:
        return void this.#memo.set(this.#uint(4), this.#top());
      case OP.MEMOIZE:
        return void this.#memo.set(this.#memo.size, this.#top());
      case OP.BINGET:
        return this.#push(this.#remembered(this.#uint(1)));
      case OP.LONG_BINGET:
        return this.#push(this.#remembered(this.#uint(4)));
      case OP.FRAME:
        return void this.#checkedLength(8, "a frame");
      default:
        throw this.#error("plain data", this.#describe(opcode));
    }
  }

  /** Pushes a value without parts, if that is what the opcode means. */
  #isScalar(opcode: number): boolean {
    const value = this.#scalar(opcode);
    if (value !== undefined) this.#push(value);
    return value !== undefined;
  }

  #scalar(opcode: number): Unpickled | undefined {
    switch (opcode) {
      case OP.NONE:
        return null;
      case OP.NEWTRUE:
        return true;
      case OP.NEWFALSE:
        return false;
      case OP.BININT:
        return this.#take(4).readInt32LE();
      case OP.BININT1:
        return this.#uint(1);
      case OP.BININT2:
        return this.#uint(2);
      case OP.LONG1:
        return this.#int(this.#uint(1));
      case OP.LONG4:
        return this.#int(this.#uint(4));
      case OP.BINFLOAT:
        return this.#take(8).readDoubleBE();
      case OP.SHORT_BINUNICODE:
        return this.#text(1);
      case OP.BINUNICODE:
        return this.#text(4);
      case OP.BINUNICODE8:
        return this.#text(8);
      case OP.SHORT_BINBYTES:
        return new Uint8Array(this.#taken(1));
      case OP.BINBYTES:
        return new Uint8Array(this.#taken(4));
      case OP.BINBYTES8:
        return new Uint8Array(this.#taken(8));
      default:
        return undefined;
    }
  }

  /** Makes or fills a list or dictionary, if that is what the opcode means. */
  #isContainer(opcode: number): boolean {
    switch (opcode) {
      case OP.MARK:
        if (this.#marks.push(this.#stack.length) > DEEPEST) throw this.#error(`at most ${DEEPEST} open marks`, "more");
        return true;
      case OP.EMPTY_LIST:
      case OP.EMPTY_TUPLE:
        this.#push([]);
        return true;
      case OP.EMPTY_DICT:
        this.#push(new Map());
        return true;
      case OP.TUPLE1:
      case OP.TUPLE2:
      case OP.TUPLE3:
        this.#push(this.#pop(opcode - OP.TUPLE1 + 1));
        return true;
      case OP.TUPLE:
        this.#push(this.#popToMark());
        return true;
      case OP.APPEND:
        this.#append(this.#pop(1));
        return true;
      case OP.APPENDS:
        this.#append(this.#popToMark());
        return true;
      case OP.SETITEM:
        this.#setItems(this.#pop(2));
        return true;
      case OP.SETITEMS:
        this.#setItems(this.#popToMark());
        return true;
      default:
        return false;
    }
  }

  #append(items: readonly Unpickled[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) throw this.#error("a list to append to", "something else");
    for (const item of items) list.push(item);
  }

  #setItems(items: readonly Unpickled[]): void {
    const dictionary = this.#top();
    if (!(dictionary instanceof Map)) throw this.#error("a dictionary to fill", "something else");
    if (items.length % 2 !== 0) throw this.#error("keys with values", "a key without one");
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i]!;
      if (typeof key === "object" && key !== null) throw this.#error("a text or a number for a key", "something else");
      dictionary.set(key, items[i + 1]!);
    }
  }

  #push(value: Unpickled): void {
    this.#stack.push(value);
  }

  /** The topmost value above the last mark. */
  #top(): Unpickled {
    if (this.#stack.length <= (this.#marks.at(-1) ?? 0)) throw this.#error("a value before this", "none");
    return this.#stack.at(-1)!;
  }

  #pop(count: number): Unpickled[] {
    if (this.#stack.length - count < (this.#marks.at(-1) ?? 0))
      throw this.#error(`${count} values before this`, "fewer");
    return this.#stack.splice(-count);
  }

  #popToMark(): Unpickled[] {
    const mark = this.#marks.pop();
    if (mark === undefined) throw this.#error("a mark before this", "none");
    return this.#stack.splice(mark);
  }

  #remembered(index: number): Unpickled {
    const value = this.#memo.get(index);
    if (value === undefined) throw this.#error(`a value that was put as number ${index}`, "none");
    return value;
  }

  #take(length: number): Buffer {
    if (length > this.#bytes.length - this.#at) throw this.#error(`${length} more bytes`, "the end");
    this.#at += length;
    return this.#bytes.subarray(this.#at - length, this.#at);
  }

  #uint(width: 1 | 2 | 4): number {
    return this.#take(width).readUIntLE(0, width);
  }

  /** A length, of which as many bytes must follow. */
  #checkedLength(width: 1 | 4 | 8, what: string): number {
    const length = width === 8 ? this.#take(8).readBigUInt64LE() : BigInt(this.#uint(width));
    const left = this.#bytes.length - this.#at;
    if (length > BigInt(left)) throw this.#error(`${length} bytes of ${what}`, `${left}`);
    return Number(length);
  }

  #taken(width: 1 | 4 | 8): Buffer {
    return this.#take(this.#checkedLength(width, "content"));
  }

  #text(width: 1 | 4 | 8): string {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(this.#taken(width));
    } catch (error) {
      throw error instanceof PickleError ? error : this.#error("text in UTF-8", "something else");
    }
  }

  /** A whole number in two's complement, little-endian. */
  #int(length: number): number | bigint {
    if (length >= LONGEST_INT) throw this.#error(`an int of less than ${LONGEST_INT} bytes`, `${length}`);
    const digits = Buffer.from(this.#take(length)).reverse().toString("hex");
    const value = length === 0 ? 0n : BigInt.asIntN(8 * length, BigInt(`0x${digits}`));
    return Number.isSafeInteger(Number(value)) ? Number(value) : value;
  }

  #describe(opcode: number): string {
    const refused = REFUSED[opcode];
    const name = `0x${opcode.toString(16).padStart(2, "0")}`;
    return refused === undefined ? `the opcode ${name}` : `an opcode that ${refused}, which is refused`;
  }

  #error(expected: string, received: string): PickleError {
    return new PickleError(`Expected ${expected} at byte ${this.#at} of a pickle but received ${received}`);
  }
}

/**
 * Checks what would be seen by walking through a value, where parts count as often as they are referred to, and a list
 * inside itself is infinitely deep.
 */
function checkExtent(value: Unpickled): void {
  let [values, length] = [0, 0];
  const visit = (at: Unpickled, depth: number): void => {
    if (depth > DEEPEST) throw new PickleError(`Expected a pickle nested at most ${DEEPEST} deep but received more`);
    if (typeof at === "string" || at instanceof Uint8Array) length += at.length;
    if (++values > MOST_VALUES || length > MOST_LENGTH) {
      throw new PickleError("Expected a pickle of a few megabytes but received one whose parts repeat without end");
    }
    if (Array.isArray(at)) {
      for (const item of at) visit(item, depth + 1);
    } else if (at instanceof Map) {
      for (const [key, item] of at) {
        visit(key, depth + 1);
        visit(item, depth + 1);
      }
    }
  };
  visit(value, 0);
}
