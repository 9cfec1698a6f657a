/**
 * Reads config files, YAML 1.2 or JSON, and remembers the lines of their values. A file that ends in .json must be JSON;
 * every other is read as YAML, which JSON is a part of.
 */
import { Composer, isMap, isScalar, isSeq, LineCounter, Parser, type CST, type Document, type Node } from "yaml";
import { InputError } from "../../base/errors.js";
import { isJsonObject, MOST_NESTED, parseJson, readText, type ErrorClass, type JsonObject } from "../../base/files.js";
import { show } from "../../base/show.js";

/** Aliases may multiply what they stand for by this much; a file of ten lines could fill the memory otherwise. */
const MOST_ALIASES = 100;

/** Where a layer's values come from. */
interface Origin {
  readonly file: string;
  /** The line on which a value stands, from 1, if the file still says so. */
  readonly lineOf: (path: readonly PropertyKey[]) => number | undefined;
}

/** Aside of the layers, which stay plain data. */
const origins = new WeakMap<object, Origin>();

/**
 * Reads a config file: an object with any part of the keys. `$schema` at its top, which editors read, is left out.
 *
 * @throws an `ErrorOf` naming the file, and the line where the parser knows it, when it cannot be read, holds no object
 *   or more than one document, repeats a key, or is nested too deeply
 */
export function readConfigText(file: string, ErrorOf: ErrorClass = InputError): JsonObject {
  const text = readText(file, ErrorOf);
  const fail = (problem: string, offset?: number): never => {
    const place = offset === undefined ? file : `${file}:${lines.linePos(offset).line}`;
    throw new ErrorOf(`${place}: ${problem}`);
  };
  const lines = new LineCounter();
  const tokens = [...new Parser(lines.addNewLine).parse(text)];
  if (isNestedTooDeep(tokens)) fail(`Expected values nested at most ${MOST_NESTED} deep but received more`);
  const isJson = file.endsWith(".json");
  const json = isJson ? parseJson(text, file, ErrorOf) : undefined;
  const documents = [...new Composer({ lineCounter: lines, version: "1.2", merge: true }).compose(tokens)];
  const [document] = documents;
  const problems = [...(document?.errors ?? []), ...(document?.warnings ?? [])];
  // A JSON file is JSON by now, and YAML's own rules, such as on the length of keys, do not concern it.
  const problem = problems.find(({ code }) => !isJson || code === "DUPLICATE_KEY");
  if (problem !== undefined) {
    const wrong =
      problem.code === "DUPLICATE_KEY"
        ? "each key once but received it twice"
        : `YAML but received: ${problem.message}`;
    fail(`Expected ${wrong}`, problem.pos[0]);
  }
  if (documents.length > 1) fail("Expected one YAML document but received several");
  const value = isJson ? json : valueOf(document, (reason) => fail(`Expected YAML but received: ${reason}`));
  if (!isJsonObject(value))
    return fail(`Expected ${isJson ? "a JSON object" : "keys and values"} but received ${show(value ?? undefined)}`);
  const values = { ...value };
  delete values["$schema"];
  origins.set(values, {
    file,
    lineOf: (path) => {
      const offset = offsetOf(document?.contents ?? null, path);
      return offset === undefined ? undefined : lines.linePos(offset).line;
    },
  });
  return values;
}

/** Notes that a layer's values come from a file, for errors about them. */
export function comesFrom(file: string, values: JsonObject): JsonObject {
  origins.set(values, { file, lineOf: () => undefined });
  return values;
}

/** Where the value of a key in a layer stands, as `mine.yaml:3`; undefined for layers that do not come from a file. */
export function placeOf(layer: unknown, path: readonly PropertyKey[]): string | undefined {
  const origin = isJsonObject(layer) ? origins.get(layer) : undefined;
  if (origin === undefined) return undefined;
  const line = origin.lineOf(path);
  return line === undefined ? origin.file : `${origin.file}:${line}`;
}

/** The document as plain data. @param fail for aliases without an anchor, in a circle, or that multiply too much */
function valueOf(document: Document | undefined, fail: (reason: string) => never): unknown {
  let value: unknown;
  try {
    value = document?.toJS({ maxAliasCount: MOST_ALIASES });
    JSON.stringify(value);
  } catch (error) {
    const { message } = error as Error;
    return fail(message.includes("circular") ? "an alias inside of what it stands for" : message);
  }
  return value;
}

/** The offset of a key (or of the item of a list), or of the nearest one above it that is there. */
function offsetOf(contents: Node | null, path: readonly PropertyKey[]): number | undefined {
  let at: unknown = contents;
  let offset: number | undefined;
  for (const step of path) {
    if (isMap(at)) {
      const pair = at.items.find(({ key }) => String(isScalar(key) ? key.value : key) === String(step));
      if (pair === undefined) break;
      offset = (pair.key as Node).range?.[0];
      at = pair.value;
    } else if (isSeq(at)) {
      at = at.items[Number(step)];
      offset = (at as Node | undefined)?.range?.[0] ?? offset;
    } else break;
  }
  return offset;
}

/**
 * Whether the text nests too deeply. Told from the parser's tokens, which it makes in a loop, while the composer calls
 * itself, and V8 ends the process where regular expressions run out of stack.
 */
function isNestedTooDeep(tokens: readonly CST.Token[]): boolean {
  let level: readonly unknown[] = tokens.map((token) => ("value" in token ? token.value : undefined));
  for (let depth = 0; depth <= MOST_NESTED && level.length > 0; depth++) {
    level = level.flatMap((token) => {
      const { items = [] } = (token ?? {}) as { items?: readonly CST.CollectionItem[] };
      return items.flatMap(({ key, value }) => [key, value].filter((part) => part !== undefined && part !== null));
    });
  }
  return level.length > 0;
}
