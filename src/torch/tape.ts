/**
 * The part of backward that libtorch does not know of: the segments that checkpoint.ts put on a tape in the forward
 * pass, from which libtorch's own backward ends. Tensor.backward goes through them afterwards, the last first.
 */

/** A piece of the forward pass whose result libtorch's backward takes for a leaf. */
export interface Segment {
  /** Whether backward came to it: its result has a gradient. */
  reached(): boolean;
  /** Computes the gradients of its inputs from that of its result, which is gone afterwards, and propagates them. */
  backward(): void;
  /** Frees what it holds. */
  release(): void;
}

/** Segments that backward has not come to, in the order they were recorded. */
const tape: Segment[] = [];

export function recordSegment(segment: Segment): void {
  tape.push(segment);
}

/**
 * Runs libtorch's backward, then goes through the segments that it has reached. If either throws, the segments that were
 * reached are dropped.
 *
 * @param retain keeps the segments for another backward through them
 */
export function backwardThroughSegments(runBackward: () => void, retain: boolean): void {
  try {
    runBackward();
    drain(0, retain);
  } catch (error) {
    drop((segment) => segment.reached());
    throw error;
  }
}

/** Runs `work`, then goes through the segments that it recorded itself; none of them is left on the tape. */
export function withOwnSegments(work: () => void): void {
  const before = tape.length;
  try {
    work();
    drain(before, false);
  } finally {
    drop(() => true, before); // those that nothing came to
  }
}

/** Drops all segments, as when a forward pass is given up before its backward. */
export function discardCheckpoints(): void {
  drop(() => true);
}

/** Segments from the last to number `from`. */
function drain(from: number, retain: boolean): void {
  for (let i = tape.length - 1; i >= from; i--) {
    const segment = tape[i]!;
    if (!segment.reached()) continue; // of another graph, or of a branch that the loss does not see
    segment.backward();
    if (!retain) tape.splice(i, 1).forEach((done) => done.release());
  }
}

function drop(which: (segment: Segment) => boolean, from = 0): void {
  for (const segment of tape.splice(from)) {
    if (which(segment)) segment.release();
    else tape.push(segment);
  }
}
