/** An error of a damaged file in a few words, without the path of the run, which is told anyway. */
export function showDamage(error: unknown, folder: string): string {
  const message = error instanceof Error ? error.message : String(error);
  const line = message.replaceAll(`${folder}/`, "").split("\n", 1)[0]!;
  return line.length > 300 ? `${line.slice(0, 297)}...` : line;
}
