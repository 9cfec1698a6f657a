export type { DenoiserBatch, NetworkSetting } from "./layers.js";
export { sd3ForwardBytes, sd3TrainingBytes } from "./sd3-transformer.js";
export { unetForwardBytes, unetTrainingBytes } from "./unet.js";
export { vaeDecodeBytes, type VaeBatch } from "./vae.js";
