/** The options of every reward that asks a server. */
import { z } from "zod";

const nothing = { affects: "nothing" };

/** The name of an environment variable. */
const variable = z.string().regex(/^[A-Za-z_]\w*$/, "Expected the name of an environment variable, not its value");

/** Why a text is no URL that can be asked; undefined if it is one. */
function misfit(text: string): string | undefined {
  if (!/^https?:/.test(text) || !URL.canParse(text)) return "Expected a URL such as http://127.0.0.1:8000";
  const url = new URL(text);
  if (url.username !== "" || url.password !== "") {
    return "Expected a URL without a user and a password, which a run would store; use headers or apiKey";
  }
  return undefined;
}

const urlOption = z.string().superRefine((text, context) => {
  const message = misfit(text);
  if (message !== undefined) context.addIssue({ code: "custom", message });
});

/** Spread into the options of a reward that asks a server. @param url the server's usual address */
export const serverOptions = (url: string) => ({
  url: urlOption.default(url).describe("Address of the server.").meta(nothing),
  apiKey: variable
    .nullable()
    .default(null)
    .describe(
      "Name of the environment variable that holds the API key, sent as `Authorization: Bearer`; null sends none. The key itself is stored nowhere.",
    )
    .meta(nothing),
  headers: z
    .record(z.string().regex(/^[\w-]+$/, "Expected the name of a header"), variable)
    .default({})
    .describe("Further headers: for each, the name of the environment variable that holds its value.")
    .meta(nothing),
  concurrency: z.int().min(1).max(1000).default(8).describe("Requests at the same time, at most.").meta(nothing),
  requestTimeout: z
    .number()
    .positive()
    .max(86_400)
    .default(120)
    .describe("Seconds to wait for the whole answer to a request.")
    .meta(nothing),
  retries: z
    .int()
    .min(0)
    .max(1000)
    .default(6)
    .describe(
      "How often a request is repeated that fails: no connection, no answer in time, status 408, 429 or 5xx, or an answer that cannot be used. The first wait is about a second, and each is twice as long as the one before, up to a minute.",
    )
    .meta(nothing),
  cacheSize: z
    .int()
    .min(0)
    .max(10_000_000)
    .default(10_000)
    .describe("Answers that are remembered, so that the same image is not asked about twice; 0 remembers none.")
    .meta(nothing),
});

/** What a reward knows of its server. */
export type ServerOptions = z.output<z.ZodObject<ReturnType<typeof serverOptions>>>;

/** The headers that the options ask for. Values come from the environment when a request is made, and are not kept. */
export function headersOf({ apiKey, headers }: Pick<ServerOptions, "apiKey" | "headers">): Record<string, string> {
  const own = Object.entries(headers).map(([header, name]) => [header.toLowerCase(), process.env[name] ?? ""] as const);
  const key = apiKey === null ? [] : [["authorization", `Bearer ${process.env[apiKey] ?? ""}`] as const];
  return Object.fromEntries([...key, ...own]);
}

/** A sentence for each environment variable that is named but not set. */
export const serverProblems = ({ apiKey, headers, url }: ServerOptions): string[] =>
  [...(apiKey === null ? [] : [apiKey]), ...Object.values(headers)]
    .filter((name) => !process.env[name])
    .map((name) => `Expected the environment variable ${name}, to be sent to ${url}, but it is not set`);

/** @param usual images that the protocol's own client sends at once */
export const batchSizeOption = (usual: number) =>
  z.int().min(1).max(1000).default(usual).describe("Images in a request, at most.").meta({ affects: "rounding" });

/** @param usual the quality at which the protocol's own client sends images */
export const qualityOption = (usual: number) =>
  z.int().min(1).max(100).default(usual).describe("JPEG's quality of the images that are sent.");
