/**
 * Damages inputs, for the tests that feed them to readers: bytes, text, JSON by its structure, and safetensors by their
 * header. All of it follows from a seed.
 */

/** Random numbers, the same ones for a seed: Mulberry32 (Tommy Ettinger, public domain). */
export class Random {
  #state: number;

  constructor(seed: number) {
    // Neighbouring seeds are spread, as their first numbers would be alike otherwise.
    this.#state = Math.imul(seed ^ (seed >>> 16), 0x45d9f3b) | 0;
  }

  /** A whole number from 0 to `limit` - 1. */
  below(limit: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let bits = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) % limit;
  }

  /** True once in `count` times. */
  once(count: number): boolean {
    return this.below(count) === 0;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }
}

/** Makes a damaged input of a sound one. */
export type Mutate = (sound: Buffer, random: Random) => Buffer;

/** One to four changes of bytes, whatever they mean. */
export const mutateBytes: Mutate = (sound, random) => {
  let bytes = sound;
  for (let changes = 1 + random.below(4); changes > 0; changes--) bytes = random.pick(BYTE_CHANGES)(bytes, random);
  return bytes;
};

const BYTE_CHANGES: readonly Mutate[] = [
  function flipBit(bytes, random) {
    const changed = Buffer.from(bytes);
    if (changed.length > 0) changed[random.below(changed.length)]! ^= 1 << random.below(8);
    return changed;
  },
  function setByte(bytes, random) {
    const changed = Buffer.from(bytes);
    if (changed.length > 0) changed[random.below(changed.length)] = random.below(256);
    return changed;
  },
  function cutOff(bytes, random) {
    return bytes.subarray(0, random.below(bytes.length + 1));
  },
  function remove(bytes, random) {
    const at = random.below(bytes.length + 1);
    return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + 1 + random.below(16))]);
  },
  function repeat(bytes, random) {
    const [at, from] = [random.below(bytes.length + 1), random.below(bytes.length + 1)];
    const part = bytes.subarray(from, from + random.below(64));
    return Buffer.concat([bytes.subarray(0, at), part, bytes.subarray(at)]);
  },
  function writeLength(bytes, random) {
    const changed = Buffer.from(bytes);
    const field = random.pick(LENGTHS);
    if (changed.length >= field.length) changed.set(field, random.below(changed.length - field.length + 1));
    return changed;
  },
  function insert(bytes, random) {
    const at = random.below(bytes.length + 1);
    return Buffer.concat([bytes.subarray(0, at), Buffer.from(random.pick(TEXTS)), bytes.subarray(at)]);
  },
];

/** Lengths and sizes as binary formats write them: nothing, and far too much, in both orders. */
const LENGTHS: readonly Buffer[] = [
  [0, 0, 0, 0],
  [0xff, 0xff, 0xff, 0xff],
  [0x7f, 0xff, 0xff, 0xff],
  [0xff, 0xff, 0xff, 0x7f],
  [0x00, 0x01, 0x00, 0x00],
  [0, 0, 0, 0, 0, 0, 0, 0],
  [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
  [0, 0, 0, 0, 0, 0, 0x10, 0],
].map((bytes) => Buffer.from(bytes));

/** What text should not hold, or what names something else than it seems. */
export const TEXTS: readonly string[] = [
  "\u0000",
  "\u001b[2J\u001b]0;title\u0007",
  "\u009b31m",
  "\u202etxt.exe",
  "\u2028",
  "\u2066",
  "\ufeff",
  "\r",
  "\n",
  "\t",
  " ",
  "",
  "__proto__",
  "constructor",
  "toString",
  "hasOwnProperty",
  "..",
  "../",
  "../../outside/secret.safetensors",
  "../outside/secret.json",
  "/etc/hostname",
  "/dev/zero",
  "/dev/stdin",
  "/proc/self/mem",
  "file:///etc/hostname",
  "C:\\Windows",
  "<script>alert(1)</script>",
  "\" onload='x'",
  "]]>",
  "%00",
  "%2e%2e%2f",
  "$HOME",
  "~",
  "*",
  "(a+)+$",
  "\\",
  '"',
  "'",
  "a".repeat(5000),
  "e\u0301".repeat(300),
  "\u{1f431}",
  "猫",
  "null",
  "NaN",
  "1e999",
  "-1",
  "0x10",
  "007",
  "9".repeat(400),
];

/** Bytes that are no UTF-8: a lone half of a pair, an overlong slash, an end too early. */
const NOT_UTF8 = [
  [0xed, 0xa0, 0x80],
  [0xc0, 0xaf],
  [0xf0, 0x9f],
  [0xff, 0xfe],
].map((bytes) => Buffer.from(bytes));

/** Changes of lines and words besides those of bytes. */
export const mutateText: Mutate = (sound, random) => {
  if (random.once(2)) return mutateBytes(sound, random);
  if (random.once(8)) {
    const at = random.below(sound.length + 1);
    return Buffer.concat([sound.subarray(0, at), random.pick(NOT_UTF8), sound.subarray(at)]);
  }
  const lines = sound.toString().split("\n");
  const at = random.below(lines.length);
  switch (random.below(6)) {
    case 0:
      lines.splice(at, 0, lines[random.below(lines.length)]!);
      break;
    case 1:
      lines.splice(at, 1 + random.below(3));
      break;
    case 2:
      lines[at] = random.pick(TEXTS);
      break;
    case 3:
      lines[at] = lines[at]!.replace(/[\w.+-]+/, () => random.pick(TEXTS));
      break;
    case 4:
      lines[at] = `${"[".repeat(1 + random.below(5000))}${lines[at]}`;
      break;
    default:
      lines[at] = `${" ".repeat(random.below(9))}${random.pick(TEXTS)}: ${lines[at]}`;
  }
  return Buffer.from(lines.join("\n"));
};

/** JSON as its text is written: keys may repeat, and a leaf is any text, JSON or not. */
type Node = string | { readonly list: Node[] } | { readonly entries: [key: string, value: Node][] };

function nodeOf(value: unknown): Node {
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  if (Array.isArray(value)) return { list: value.map(nodeOf) };
  return { entries: Object.entries(value).map(([key, item]) => [key, nodeOf(item)]) };
}

function textOf(node: Node): string {
  if (typeof node === "string") return node;
  if ("list" in node) return `[${node.list.map(textOf).join(",")}]`;
  return `{${node.entries.map(([key, value]) => `${JSON.stringify(key)}:${textOf(value)}`).join(",")}}`;
}

const nested = (open: string, close: string, depth: number): string => open.repeat(depth) + close.repeat(depth);

/** Values in the place of others, as JSON writes them, or as it does not. */
const VALUES: readonly string[] = [
  ...["null", "true", "false", "[]", "{}", '""', "0", "-0", "-1", "1", "2", "7", "0.5", "1e-300", "1e300", "1e999"],
  ...["255", "65536", "1000000", "1000000000", "2147483647", "2147483648", "4294967295", "4294967296"],
  ...["9007199254740991", "9007199254740993", "-9007199254740991", "18446744073709551616"],
  ...["NaN", "Infinity", "undefined", "01", "'a'", '"\\ud800"', '"\\u0000"', '"\\x"', "[null]", "[[]]", "[{}]"],
  ...['{"__proto__":{"polluted":1}}', '{"length":1000000000}', '{"a":{"a":{"a":1}}}', '[1,"2",null]', "[1,2,3]"],
  ...['{"toJSON":1}', '{"then":1}', '{"name":"x"}', '{"mean":1}', '["a","b"]', "[0.1,-0.1]"],
  nested("[", "]", 150),
  nested("[", "]", 3000),
  nested("[", "]", 100_000),
  `${'{"a":'.repeat(2000)}1${"}".repeat(2000)}`,
  `[${"0,".repeat(9999)}0]`,
];

/** All lists and objects of a value, itself included if it is one. */
function containersIn(node: Node): Exclude<Node, string>[] {
  if (typeof node === "string") return [];
  const parts = "list" in node ? node.list : node.entries.map(([, value]) => value);
  return [node, ...parts.flatMap(containersIn)];
}

/** Anything that JSON can hold. */
const strangeValue = (random: Random): Node =>
  random.once(2) ? random.pick(VALUES) : JSON.stringify(random.pick(TEXTS));

/** One to three changes at places of a JSON value. @returns its text, which may not be JSON any more */
export function mutateJsonValue(value: unknown, random: Random): string {
  const root = nodeOf(value);
  if (typeof root === "string" || random.once(40)) return textOf(strangeValue(random));
  const containers = containersIn(root);
  for (let changes = 1 + random.below(3); changes > 0; changes--) {
    const at = random.pick(containers);
    if ("list" in at) changeList(at.list, random);
    else changeEntries(at.entries, random);
  }
  return textOf(root);
}

function changeList(list: Node[], random: Random): void {
  const at = random.below(list.length + 1);
  switch (random.below(5)) {
    case 0:
      list.splice(at, 1);
      break;
    case 1:
      list.splice(at, 0, strangeValue(random));
      break;
    case 2:
      list.push(...list.slice(0, 100));
      break;
    case 3:
      list.splice(at);
      break;
    default:
      if (at < list.length) list[at] = strangeValue(random);
  }
}

function changeEntries(entries: [key: string, value: Node][], random: Random): void {
  const at = random.below(Math.max(1, entries.length));
  const entry = entries[at];
  switch (entry === undefined ? 5 : random.below(8)) {
    case 0:
      entries.splice(at, 1);
      break;
    case 1: // the same key twice
      entries.push([entry![0], strangeValue(random)]);
      break;
    case 2:
      entry![0] = random.pick(TEXTS);
      break;
    case 3: // another one's value
      entry![1] = random.pick(entries)[1];
      break;
    case 4:
      entry![1] = { list: [entry![1]] };
      break;
    case 5:
      entries.push([random.pick(TEXTS), strangeValue(random)]);
      break;
    default:
      entry![1] = strangeValue(random);
  }
}

/** A file of JSON, mostly damaged in its structure, sometimes in its bytes. */
export const mutateJson: Mutate = (sound, random) =>
  random.once(6) ? mutateText(sound, random) : Buffer.from(mutateJsonValue(JSON.parse(sound.toString()), random));

/** A file of JSON Lines, mostly one of its lines. */
export const mutateJsonLines: Mutate = (sound, random) => {
  if (random.once(4)) return mutateText(sound, random);
  const lines = sound.toString().split("\n");
  const at = random.below(Math.max(1, lines.length - 1));
  lines[at] = mutateJsonValue(JSON.parse(lines[at] || "{}"), random);
  return Buffer.from(lines.join("\n"));
};

/** A safetensors file: its length field, its header by structure, its data, or any bytes. */
export const mutateSafetensors: Mutate = (sound, random) => {
  const end = 8 + Number(sound.readBigUInt64LE());
  const [header, data] = [sound.subarray(8, end), sound.subarray(end)];
  switch (random.below(8)) {
    case 0:
      return mutateBytes(sound, random);
    case 1:
      return Buffer.concat([sound.subarray(0, end), mutateBytes(data, random)]);
    case 2: {
      const changed = Buffer.from(sound);
      changed.writeBigUInt64LE(BigInt(random.pick([0, 1, 7, header.length - 1, header.length + 1, 2 ** 31, 2 ** 53])));
      return changed;
    }
    case 3:
      return withHeader(mutateText(header, random), data);
    case 4: {
      // Sizes that may fit each other, while the data does not.
      const text = header
        .toString()
        .replaceAll(/\d+/g, (digits) => (random.once(4) ? String(random.below(99)) : digits));
      return withHeader(Buffer.from(text), data);
    }
    default:
      return withHeader(Buffer.from(mutateJsonValue(JSON.parse(header.toString()), random)), data);
  }
};

function withHeader(header: Buffer, data: Buffer): Buffer {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(header.length));
  return Buffer.concat([length, header, data]);
}
