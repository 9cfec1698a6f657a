export type { NetworkSetting } from "./layers.js";
export { unetForwardBytes, unetTrainingBytes, type UNetBatch } from "./unet.js";
export { vaeDecodeBytes, type VaeBatch } from "./vae.js";
