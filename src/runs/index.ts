export { writeFileAtomic, writeJson, writeJsonLines } from "../base/files.js";
export { layout, stageFiles, type Metrics, type RunFile, type SampleLine } from "./layout.js";
export { RunError, RunReader, type StoredTensor } from "./reader.js";
export { RunWriter } from "./writer.js";
