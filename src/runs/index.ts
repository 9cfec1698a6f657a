export { layout, stageFiles, type RunFile } from "./layout.js";
export type { PhaseSeconds, SampleLine, StageMetrics, UpdateMetrics } from "./metrics.js";
export { RunError, RunReader, type StoredTensor } from "./reader.js";
export { RunWriter } from "./writer.js";
