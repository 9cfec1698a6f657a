export type { TextConditioning, TextEmbeds, TextStates } from "./conditioning.js";
export {
  type Conditioning,
  type DiffusionModel,
  familyOf,
  type GuidanceOptions,
  type ImageSize,
  modelFamilies,
  type ModelFamily,
  type ModelOptions,
  openModel,
} from "./diffusion-model.js";
export { catPrompts, expandPrompts, promptEmbeds, type PromptEmbeds } from "./prompt-embeds.js";
export { registerModel } from "./registry.js";
export { expectNewFolder } from "./save.js";
export { StableDiffusionPipeline } from "./stable-diffusion.js";
