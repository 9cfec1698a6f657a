export * from "./grammar.js";
export * from "./prompts.js";
export { Random } from "./random.js";
export { PICTURE_BYTES, PICTURE_SIZE, Renderer } from "./renderer.js";
