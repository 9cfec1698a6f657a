export * from "./grammar.js";
export * from "./prompts.js";
export {
  SceneClassifier,
  SLOT_NAMES,
  SLOTS,
  type SceneClassifierConfig,
  type Slot,
  type SlotAlignment,
} from "./classifier.js";
export { toImages, toPixels } from "./images.js";
export { IMAGE_BYTES, IMAGE_SIZE } from "./image-format.js";
export { Random } from "./random.js";
export { Renderer } from "./renderer.js";
