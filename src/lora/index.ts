export { convertLora } from "./convert.js";
export type { KohyaFamily } from "./kohya.js";
export type { LoraLayer } from "./layer.js";
export {
  attentionProjections,
  loadLora,
  LoraAdapter,
  type LoadLoraOptions,
  type LoraModels,
  type LoraOptions,
} from "./lora.js";
export {
  LORA_FILE_NAME,
  LORA_FILE_NAMES,
  loraFileIn,
  readLora,
  writeLora,
  type LoraFile,
  type WriteLoraOptions,
} from "./lora-file.js";
export { parseLoraKey, type LoraForm, type LoraKey, type LoraPart } from "./names.js";
