export type { GuidanceOptions, PreparedPrompts } from "./guidance.js";
export { promptEmbeds, type PromptEmbeds } from "./prompt-embeds.js";
export { StableDiffusionPipeline, type ImageSize, type PipelineOptions } from "./stable-diffusion.js";
