export { attentionProjections, LoraAdapter, type LoraOptions } from "./lora.js";
