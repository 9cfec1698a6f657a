/** libtorch in TypeScript: tensors, operators, autograd, randomness and memory. */
export { Tensor, type NestedArray, type ReduceOptions } from "./tensor.js";
export type { Device, DType, MemoryFormat, TypedArray } from "./dtypes.js";
export { TorchError } from "./error.js";
export * from "./creation.js";
export * from "./functions.js";
export { scaledDotProductAttention, type AttentionOptions } from "./attention.js";
export { computeDtype } from "./compute-dtype.js";
export { checkpoint, discardCheckpoints, relay } from "./checkpoint.js";
export { enableGrad, grad, isGradEnabled, noGrad, type GradOptions } from "./autograd.js";
export { keep, liveTensors, nativeBytes, peakNativeBytes, tidy } from "./memory.js";
export { hasOperator, op } from "./op.js";
export { Generator, manualSeed } from "./random.js";
export { yieldToEventLoop, deviceCount, numThreads, setNumThreads, torchVersion } from "./runtime.js";
