export { constant, fanInUniform, normal, onesInit, uniform, zerosInit, type Init } from "./init.js";
export { Conv2d, Embedding, GroupNorm, LayerNorm, Linear, RMSNorm } from "./layers.js";
export type { Conv2dOptions, LayerAdapter, LinearOptions } from "./layers.js";
export { Module, Weights } from "./module.js";
export {
  halvesSwapped,
  storedShape,
  type CheckpointOptions,
  type StoredParameter,
  type WeightsOptions,
} from "./source.js";
