export { Annotations, isSame, type Judgement, type QueuedGroup } from "./annotations.js";
export { Board } from "./board.js";
export { isComplete, scoreOf, type Choice, type Group, type Scale } from "./choices.js";
export type { BoardState } from "./page-state.js";
export { serve, type PageServer, type ServeOptions } from "./server.js";
