export { promptEmbeds, type PromptEmbeds } from "./prompt-embeds.js";
export {
  StableDiffusionPipeline,
  type GuidanceOptions,
  type ImageSize,
  type PipelineOptions,
} from "./stable-diffusion.js";
