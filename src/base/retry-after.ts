/** How long a server asks to wait before the next request. */

/**
 * From `retry-after: 30`, from `retry-after:` with a date, or from `ratelimit: "api";r=0;t=30` (the Hugging Face hub's)
 * when no requests remain.
 *
 * @returns seconds; undefined when it does not say
 */
export function secondsToWait(headers: { get(name: string): string | null }): number | undefined {
  const asked = headers.get("retry-after") ?? "";
  const seconds = /^\s*(\d+(?:\.\d+)?)\s*$/.exec(asked) ?? /;r=0;t=(\d+)/.exec(headers.get("ratelimit") ?? "");
  if (seconds !== null) return Number(seconds[1]);
  const date = /[a-z]/i.test(asked) ? Date.parse(asked) : NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, (date - Date.now()) / 1000);
}
