export type { GuidanceOptions, PreparedPrompts } from "./guidance.js";
export { promptEmbeds, type PromptEmbeds } from "./prompt-embeds.js";
export { expectNewFolder, type PipelineOptions } from "./parts.js";
export { StableDiffusionPipeline, type ImageSize } from "./stable-diffusion.js";
