export { constant, fanInUniform, normal, onesInit, uniform, zerosInit, type Init } from "./init.js";
export { Conv2d, Embedding, GroupNorm, LayerNorm, Linear } from "./layers.js";
export type { Conv2dOptions, LayerBranch, LinearOptions } from "./layers.js";
export { Module } from "./module.js";
export { Weights, type CheckpointOptions, type StoredParameter, type WeightsOptions } from "./weights.js";
