export type { TextConditioning, TextEmbeds, TextStates } from "./conditioning.js";
export {
  familyOf,
  modelFamilies,
  openModel,
  schedulerOf,
  type Conditioning,
  type DiffusionModel,
  type GuidanceOptions,
  type ImageSize,
  type LongPrompt,
  type ModelFamily,
  type ModelOptions,
  type PassMemory,
  type PassSetting,
} from "./diffusion-model.js";
export { catPrompts, expandPrompts, promptEmbeds, promptsOn, type PromptEmbeds } from "./prompt-embeds.js";
export { registerModel } from "./registry.js";
export { expectNewFolder } from "./save.js";
export { Loadable } from "./loadable.js";
export { encodeText as encodeSD3Text } from "./sd3-text.js";
export { StableDiffusion3Pipeline } from "./stable-diffusion-3.js";
export { StableDiffusionPipeline } from "./stable-diffusion.js";
