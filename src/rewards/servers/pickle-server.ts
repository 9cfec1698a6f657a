/**
 * The protocol of the reward servers around ddpo-pytorch and flow_grpo: Python's pickles over HTTP. A request is the
 * pickle of a dictionary, an answer too; an error is status 500 with a traceback.
 */
import { show } from "../../base/show.js";
import { Failure } from "./failure.js";
import { pickle, PickleError, unpickle, type Dictionary, type Picklable, type Unpickled } from "./pickle.js";
import type { RewardServer } from "./reward-server.js";

/**
 * Posts a dictionary and reads parts of the answering one.
 *
 * @param read makes something of the answer's value of a key; throws Failure for what cannot be used
 */
export function postPickle<T>(
  server: RewardServer,
  request: Readonly<Record<string, Picklable>>,
  read: (part: (key: string) => unknown) => T,
  signal: AbortSignal,
): Promise<T> {
  return server.post(
    {
      body: () => pickle(request),
      contentType: "application/octet-stream",
      read: (answer) => {
        const dictionary = dictionaryIn(answer);
        return read((key) => {
          const part = dictionary.get(key);
          if (part === undefined) throw new Failure(`a dictionary with ${key}`, `one with ${keysOf(dictionary)}`);
          return plain(part);
        });
      },
    },
    signal,
  );
}

function dictionaryIn(answer: Buffer): Dictionary {
  const value = valueIn(answer);
  if (value instanceof Map) return value;
  throw new Failure("the pickle of a dictionary", `that of ${Array.isArray(value) ? "a list" : typeof value}`);
}

function valueIn(answer: Buffer): Unpickled {
  try {
    return unpickle(answer);
  } catch (error) {
    if (!(error instanceof PickleError)) throw error;
    throw new Failure("a pickle of plain data", `what cannot be read: ${error.message}`);
  }
}

/** As JSON would have it, for `show` and for the checks of numbers. */
function plain(value: Unpickled): unknown {
  if (typeof value === "bigint") return Number(value);
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  if (Array.isArray(value)) return value.map(plain);
  if (value instanceof Map) return Object.fromEntries([...value].map(([key, item]) => [String(key), plain(item)]));
  return value;
}

const keysOf = (dictionary: Dictionary): string =>
  show([...dictionary.keys()].map((key) => (typeof key === "bigint" ? String(key) : key)));
