/**
 * Work that foreign code may end together with the process, by calling process.exit: what is to be rescued then, and what
 * is to be said.
 */

const callbacks = new Set<() => string | undefined>();
const told: string[] = [];

/** Runs in the process's last moment, in which nothing asynchronous can happen any more. The last begun comes first. */
function onExit(): void {
  for (const callback of [...callbacks].reverse()) {
    const sentence = callback();
    if (sentence !== undefined) told.push(sentence);
  }
}

/**
 * Registers what is to be done if the process ends.
 *
 * @param callback synchronous; returns a sentence for people, if there is something to say
 * @returns what to call when the danger is over
 */
export function ifProcessEnds(callback: () => string | undefined): () => void {
  // Before other listeners, which may want to know what was told.
  if (callbacks.size === 0) process.prependListener("exit", onExit);
  callbacks.add(callback);
  return () => {
    callbacks.delete(callback);
    if (callbacks.size === 0) process.off("exit", onExit);
  };
}

/** The sentences of what the end of the process has cut off; to be asked in a listener of "exit". */
export const cutOff = (): readonly string[] => told;
