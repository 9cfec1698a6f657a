/** Reads the body of a server's answer, up to a limit. */
import type { Response } from "undici";
import { isJsonObject } from "../../base/files.js";
import { show } from "../../base/show.js";
import { Failure } from "./failure.js";

/** Characters of a server's own words in an error. */
const WORDS = 300;

/**
 * The whole body. The connection is closed as soon as there is more than the limit.
 *
 * @param limit in bytes, after decompression
 * @throws Failure that is not worth another attempt for more bytes than the limit
 */
export async function readBody(response: Response, limit: number): Promise<Buffer> {
  const tooLong = (received: string): Failure =>
    new Failure(`an answer of at most ${limit / 2 ** 20} MiB`, received, { useful: false });
  const declared = Number(response.headers.get("content-length"));
  if (declared > limit) {
    await response.body?.cancel();
    throw tooLong(`one of ${Math.ceil(declared / 2 ** 20)} MiB`);
  }
  const chunks: Uint8Array[] = [];
  let length = 0;
  // Leaving the loop early cancels the body.
  for await (const chunk of (response.body ?? []) as AsyncIterable<Uint8Array>) {
    length += chunk.length;
    if (length > limit) throw tooLong("more");
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, length);
}

/** What a server says of its own failure: its message, or the last line of a traceback. Short, and empty for nothing. */
export async function wordsOf(response: Response): Promise<string> {
  const text = (await readBody(response, 2 ** 16).catch(() => Buffer.alloc(0))).toString("utf8").trim();
  const words = messageIn(text) ?? (text.startsWith("Traceback") ? text.slice(text.lastIndexOf("\n") + 1) : text);
  return words === "" ? "" : show(words, WORDS);
}

/** The message in the JSON of FastAPI, `{ detail }`, and of OpenAI, `{ error: { message } }`. */
function messageIn(text: string): string | undefined {
  try {
    const value = JSON.parse(text) as unknown;
    if (!isJsonObject(value)) return undefined;
    const { error, detail, message } = value;
    const told = isJsonObject(error) ? error["message"] : (error ?? detail ?? message);
    return typeof told === "string" ? told : undefined;
  } catch {
    return undefined;
  }
}
