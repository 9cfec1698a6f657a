export * from "./grammar.js";
export * from "./prompts.js";
export { SceneClassifier, SLOT_NAMES, SLOTS, type SceneClassifierConfig, type Slot } from "./classifier.js";
export { toImages, toPictures } from "./images.js";
export { PICTURE_BYTES, PICTURE_SIZE } from "./picture-format.js";
export { Random } from "./random.js";
export { Renderer } from "./renderer.js";
