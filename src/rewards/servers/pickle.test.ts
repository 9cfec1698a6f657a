/** The codec of pickles: what Python writes and reads, what is refused, and thousands of damaged ones. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { temporaryFolder } from "../../../test/support/folders.js";
import { mutatePickle, opcodeSoup } from "../../../test/support/mutate-pickle.js";
import { Random } from "../../../test/support/mutate.js";
import { pickle, PickleError, unpickle, type Picklable } from "./pickle.js";

const hasPython = spawnSync("python3", ["--version"]).status === 0;
const needsPython = hasPython ? {} : { skip: "there is no python3" };

function python(program: string, input: unknown): unknown {
  const { status, stdout, stderr } = spawnSync("python3", ["-c", program], {
    input: JSON.stringify(input),
    maxBuffer: 2 ** 26,
  });
  assert.equal(status, 0, stderr.toString());
  return JSON.parse(stdout.toString());
}

/** What is read for a value that was written. */
function asRead(value: Picklable): unknown {
  if (value === null || typeof value !== "object" || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.map(asRead);
  return new Map(Object.entries(value).map(([key, item]) => [key, asRead(item)]));
}

const values: Picklable[] = [
  null,
  true,
  false,
  ...[0, 1, -1, 255, 256, 65_535, 65_536, 2 ** 31 - 1, 2 ** 31, -(2 ** 31), -(2 ** 31) - 1, 2 ** 53 - 1, 1 - 2 ** 53],
  ...[0.5, -0, 1e300, Infinity, -Infinity, NaN, 5e-324],
  ...[2n ** 53n, -(2n ** 63n), 2n ** 64n, 2n ** 2000n, -(2n ** 2000n)],
  ...["", "a cat", "über 猫 🐱", "\ufeffmark", "x".repeat(300), "x".repeat(70_000)],
  [],
  {},
  [[], {}, [[1, "2", [3.5]]]],
  { tag: "counting", include: [{ class: "cup", count: 2, color: "red" }], __proto__x: null },
  JSON.parse('{"__proto__": {"polluted": 1}}') as Picklable,
  Array.from({ length: 3000 }, (_, i) => i),
  Object.fromEntries(Array.from({ length: 2500 }, (_, i) => [`key ${i}`, i / 7])),
];
const bytes: Picklable[] = [new Uint8Array(0), Uint8Array.of(0, 255, 128), new Uint8Array(70_000).fill(7)];

test("what is written is read again", () => {
  for (const value of [...values, ...bytes]) assert.deepEqual(unpickle(pickle(value)), asRead(value));
  assert.deepEqual(unpickle(pickle(values)), asRead(values));
  assert.equal(({} as Record<string, unknown>)["polluted"], undefined);
});

test("Python reads what is written, and what it writes in protocols 2 to 5 is read", needsPython, () => {
  const program = `
import base64, json, pickle, sys
texts = json.load(sys.stdin)
values = [pickle.loads(base64.b64decode(text)) for text in texts]
kinds = [type(value).__name__ for value in values]
back = [[base64.b64encode(pickle.dumps(value, protocol)).decode() for value in values] for protocol in (2, 3, 4, 5)]
print(json.dumps([kinds, back]))
`;
  const all = [...values, ...bytes];
  const written = all.map((value) => Buffer.from(pickle(value)).toString("base64"));
  const [kinds, back] = python(program, written) as [string[], string[][]];
  const kindOf = (value: Picklable): string => {
    if (value === null) return "NoneType";
    if (typeof value === "number") return Number.isSafeInteger(value) && !Object.is(value, -0) ? "int" : "float";
    if (typeof value === "object")
      return value instanceof Uint8Array ? "bytes" : Array.isArray(value) ? "list" : "dict";
    return { boolean: "bool", bigint: "int", string: "str" }[typeof value as "boolean" | "bigint" | "string"];
  };
  assert.deepEqual(kinds, all.map(kindOf));
  for (const [i, texts] of back.entries()) {
    // Protocol 2 has no bytes: Python writes a call for them.
    const readable = i === 0 ? values : all;
    readable.forEach((value, j) => assert.deepEqual(unpickle(Buffer.from(texts[j]!, "base64")), asRead(value)));
  }
});

test("Python's tuples, repeated values and keys that are no texts", needsPython, () => {
  const program = `
import base64, json, pickle, sys
json.load(sys.stdin)
shared = ["a", "b"]
value = {1: (), None: (1,), True: (1, 2), "t": (1, 2, 3, 4), 2.5: [shared, shared, "a", "a"], "r": [[0.5]] * 3}
print(json.dumps([base64.b64encode(pickle.dumps(value, protocol)).decode() for protocol in (2, 3, 4, 5)]))
`;
  const expected = new Map<unknown, unknown>([
    // True is 1 in Python: the key of the first, with the value of the last.
    [1, [1, 2]],
    [null, [1]],
    ["t", [1, 2, 3, 4]],
    [2.5, [["a", "b"], ["a", "b"], "a", "a"]],
    ["r", [[0.5], [0.5], [0.5]]],
  ]);
  for (const text of python(program, null) as string[]) {
    assert.deepEqual(unpickle(Buffer.from(text, "base64")), expected);
  }
});

test("whatever names, makes or calls something of Python is refused, and nothing runs", needsPython, () => {
  const folder = temporaryFolder();
  const program = `
import base64, collections, datetime, json, os, pickle, sys
folder = json.load(sys.stdin)

class Runs:
    def __reduce__(self):
        return os.system, ("touch " + folder + "/ran",)

class Plain:
    def __init__(self):
        self.x = 1

class Persistent(pickle.Pickler):
    def persistent_id(self, value):
        return "elsewhere" if value == "far" else None

values = [Runs(), Plain(), Plain, len, datetime.date(2020, 1, 1), {1, 2}, frozenset([1]), 1j, bytearray(b"x"),
          collections.OrderedDict(a=1), range(3), [Runs()], {"scores": [Runs()]}]
out = [base64.b64encode(pickle.dumps(value, protocol)).decode() for value in values for protocol in (2, 3, 4, 5)]
import io
for protocol in (2, 3, 4, 5):
    file = io.BytesIO()
    Persistent(file, protocol).dump(["far"])
    out.append(base64.b64encode(file.getvalue()).decode())
print(json.dumps(out))
`;
  const texts = python(program, folder) as string[];
  assert.equal(texts.length, 56);
  for (const text of texts) assert.throws(() => unpickle(Buffer.from(text, "base64")), PickleError);
  assert.match(
    messageOf(Buffer.from(texts[0]!, "base64")),
    /received an opcode that names something in Python \(GLOBAL\)/,
  );
  assert.equal(existsSync(join(folder, "ran")), false);
});

const messageOf = (data: Uint8Array): string => {
  try {
    unpickle(data);
  } catch (error) {
    assert.ok(error instanceof PickleError, String(error));
    return error.message;
  }
  return "";
};

const latin = (text: string): Buffer => Buffer.from(text, "latin1");

describe("hostile pickles", () => {
  const wrong: Record<string, [Buffer, RegExp]> = {
    nothing: [latin(""), /Expected a pickle of protocol 2 to 5 .* received too little/],
    "protocol 0": [latin("(lp0\n."), /Expected a pickle of protocol 2 to 5/],
    "protocol 6": [latin("\x80\x06N."), /Expected a pickle of protocol 2 to 5/],
    "an end too early": [latin("\x80\x03X\x05\x00\x00\x00ab"), /Expected 5 bytes of content .* received 2/],
    "no end": [latin("\x80\x03N"), /Expected 1 more bytes .* received the end/],
    "more after the end": [latin("\x80\x03N.N"), /Expected the end .* received more bytes/],
    "two values": [latin("\x80\x03NN."), /Expected one value at the end/],
    "no value": [latin("\x80\x03."), /Expected one value at the end/],
    "an open mark": [latin("\x80\x03N(."), /Expected one value at the end/],
    "a huge text": [latin("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffx."), /18446744073709551615 bytes of content/],
    "huge bytes": [latin("\x80\x03B\xff\xff\xff\xffx."), /4294967295 bytes of content/],
    "a huge frame": [latin("\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7fN."), /bytes of a frame/],
    "a huge int": [latin("\x80\x02\x8b\xff\xff\xff\x7f\x01."), /an int of less than 256 bytes/],
    "text that is none": [latin("\x80\x03X\x01\x00\x00\x00\xff."), /text in UTF-8/],
    "a value of nobody": [latin("\x80\x03h\x07."), /put as number 7/],
    "appending to a number": [latin("\x80\x03K\x01K\x02a."), /a list to append to/],
    "filling a list": [latin("\x80\x03]K\x01K\x02s."), /a dictionary to fill/],
    "a key alone": [latin("\x80\x03}(K\x01u."), /keys with values/],
    "a list as key": [latin("\x80\x03}]K\x02s."), /a text or a number for a key/],
    "a missing mark": [latin("\x80\x03]K\x01e."), /a mark before this/],
    "reaching below a mark": [latin("\x80\x03](K\x01\x86."), /2 values before this/],
    "an unknown opcode": [latin("\x80\x03\xff."), /received the opcode 0xff/],
    "a number as text": [latin("\x80\x02I1\n."), /received the opcode 0x49/],
    "lists in lists": [latin(`\x80\x03${"]".repeat(500)}${"a".repeat(499)}.`), /nested at most 100 deep/],
    "tuples in tuples": [latin(`\x80\x03)${"\x85".repeat(5000)}.`), /nested at most 100 deep/],
    "marks in marks": [latin(`\x80\x03${"(".repeat(5000)}.`), /at most 100 open marks/],
    "a list in itself": [latin("\x80\x03]q\x00h\x00a."), /nested at most 100 deep/],
    "a dictionary in itself": [latin("\x80\x03}q\x00K\x01h\x00s."), /nested at most 100 deep/],
    "endless opcodes": [latin(`\x80\x03${"]".repeat(1_100_000)}.`), /at most 1000000 opcodes/],
  };
  for (const [name, [data, message]] of Object.entries(wrong)) {
    test(name, () => assert.match(messageOf(data), message));
  }

  test("a billion values out of some hundred bytes", () => {
    const memo = (i: number): string => String.fromCharCode(i);
    // Each tuple holds the one before ten times; all are in one around them.
    const tuples = Array.from({ length: 9 }, (_, i) => `(${`h${memo(i)}`.repeat(10)}tq${memo(i + 1)}`);
    assert.match(messageOf(latin(`\x80\x03()q\x00${tuples.join("")}t.`)), /whose parts repeat without end/);
  });

  test("a long text a million times", () => {
    const text = "x".repeat(1000);
    const data = latin(`\x80\x03](X\xe8\x03\x00\x00${text}q\x00${"h\x00".repeat(100_000)}e.`);
    assert.match(messageOf(data), /whose parts repeat without end/);
  });

  test("what cannot be written is refused", () => {
    let deep: Picklable = 1;
    for (let i = 0; i < 200; i++) deep = [deep];
    assert.throws(() => pickle(deep), /nested at most 100 deep/);
    assert.throws(() => pickle([undefined as never]), /Expected plain data for a pickle but received undefined/);
    assert.throws(() => pickle(2n ** 4000n), /an int of less than 256 bytes/);
  });
});

describe("damaged pickles", { timeout: 60_000 }, () => {
  const answers = [
    { outputs: [["a cat", "no"]], recall: [[0.9, 0.8]], f1: [[1, 2]] },
    { scores: [0.25, 1, 0], rewards: [1, 0], group_rewards: { counting: [-10, 1], colors: [0.5] } },
    { images: [new Uint8Array(40).fill(9)], big: 2n ** 70n, only_strict: true, none: null },
  ] as unknown as Picklable[];
  test("mutations of good ones end in a value or a PickleError", () => {
    const random = new Random(1);
    let refused = 0;
    for (let i = 0; i < 10_000; i++) {
      const data = Buffer.from(pickle(answers[i % answers.length]!));
      if (messageOf(mutatePickle(data, random)) !== "") refused++;
    }
    assert.ok(refused > 5000 && refused < 10_000, `${refused}`);
  });

  test("random opcodes end in a value or a PickleError", () => {
    const random = new Random(2);
    let read = 0;
    for (let i = 0; i < 10_000; i++) if (messageOf(opcodeSoup(random)) === "") read++;
    assert.ok(read > 0 && read < 10_000, `${read}`);
  });
});
