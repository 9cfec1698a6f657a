export { checkTensors, Dimension, TensorCheck, type ExpectedTensor } from "./check.js";
export { SafetensorsError } from "./error.js";
export { readHeader, type SafetensorsDType, type SafetensorsHeader, type TensorEntry } from "./header.js";
export { writeRaw, type RawTensor } from "./write.js";
export { loadSafetensors, SafetensorsFile, saveSafetensors, type PendingTensor, type ReadOptions } from "./tensors.js";
