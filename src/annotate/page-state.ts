/** What the server tells the page. */
import type { Choice, Group } from "./choices.js";

/** A group on the page, with what is chosen in it so far. */
export interface Shown extends Group {
  readonly choice: Choice;
}

/** How far the person is. */
export interface BoardState {
  /** Groups that are judged, of all there are. */
  readonly judged: number;
  readonly total: number;
  /** The group whose turn it is; null when all are judged. */
  readonly current: Shown | null;
  /** Images of the group after it, to be loaded already. */
  readonly upcoming: readonly string[];
  readonly canUndo: boolean;
}

export interface PageState extends BoardState {
  /** The run's folder. */
  readonly run: string;
  /** Whether a process works on the run, so that more groups may come. */
  readonly isRunning: boolean;
}
