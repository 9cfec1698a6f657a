/**
 * The environment variables of Python's huggingface_hub, with the same meanings. Departure: an empty variable counts as
 * not set, because job and compose files often pass on variables that they have no value for.
 */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Environment variables by name. (NodeJS.ProcessEnv would ask users of these types for those of Node.) */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The first of these variables that is set and not empty. */
const first = (env: Environment, ...names: readonly string[]): string | undefined =>
  names.map((name) => env[name]?.trim()).find((value) => value !== undefined && value !== "");

/** Expands `~` and `$NAME` in a path, since no shell has done so when a variable comes from a file. */
const expand = (env: Environment, path: string): string =>
  path
    .replace(/^~(?=[\\/]|$)/, homedir())
    .replace(/\$(?:(\w+)|\{(\w+)\})/g, (whole, plain?: string, braced?: string) => env[plain ?? braced!] ?? whole);

function hubHome(env: Environment): string {
  return expand(env, first(env, "HF_HOME") ?? join(first(env, "XDG_CACHE_HOME") ?? "~/.cache", "huggingface"));
}

/** The cache folder: HF_HUB_CACHE, else `hub` in HF_HOME, else in the user's cache. */
export function hubCache(env: Environment = process.env): string {
  const given = first(env, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE");
  return given === undefined ? join(hubHome(env), "hub") : expand(env, given);
}

/** The token of HF_TOKEN, or the one that `hf auth login` stored. */
export function hubToken(env: Environment = process.env): string | undefined {
  const given = first(env, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN");
  if (given !== undefined) return given;
  const path = first(env, "HF_TOKEN_PATH");
  const file = path === undefined ? join(hubHome(env), "token") : expand(env, path);
  return existsSync(file) ? readFileSync(file, "utf8").trim() || undefined : undefined;
}

/** The URL of the hub, or of a mirror. */
export function hubEndpoint(env: Environment = process.env): string {
  return first(env, "HF_ENDPOINT")?.replace(/\/+$/, "") ?? "https://huggingface.co";
}

/** Whether to use only the cache. */
export function isOffline(env: Environment = process.env): boolean {
  return /^(1|true|yes|on)$/i.test(first(env, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") ?? "");
}

/**
 * Seconds without a byte after which a connection counts as broken. Python's default of 10 is too short for slow lines.
 */
export function downloadTimeout(env: Environment = process.env): number {
  const seconds = Number(first(env, "HF_HUB_DOWNLOAD_TIMEOUT"));
  return seconds > 0 ? seconds : 30;
}
