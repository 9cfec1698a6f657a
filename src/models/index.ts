export {
  TextKeyValues,
  UNet2DConditionModel,
  type AddedConditions,
  type UNetForwardOptions,
} from "./unet-2d-condition.js";
export type { UNetConfig, UNetConfigInput } from "./unet-config.js";
export { AestheticHead } from "./aesthetic-head.js";
export { layerCount, ModelConfigError, off, parseConfig, refuse, whole } from "./config.js";
export { isPickle, pickleRefused } from "../base/pickle.js";
export { AutoencoderKL, type AutoencoderKLConfig, type LatentDistribution, type VaeTiling } from "./autoencoder-kl.js";
export { CLIPModel } from "./clip.js";
export type { CLIPConfig, CLIPTextConfig, CLIPVisionConfig } from "./clip-config.js";
export { CLIPTextModel, CLIPTextModelWithProjection, type CLIPTextOutput } from "./clip-text.js";
export type { DebertaConfig, RobertaConfig } from "./bert-config.js";
export type { TextEncoderOptions } from "./bert-encoder.js";
export { DebertaModel } from "./deberta.js";
export { SD3Transformer2DModel, type SD3Text } from "./sd3-transformer-2d.js";
export type { SD3TransformerConfig, SD3TransformerConfigInput } from "./sd3-config.js";
export { T5EncoderModel } from "./t5-encoder.js";
export type { T5Config } from "./t5-config.js";
export { RobertaModel } from "./roberta.js";
export {
  loadModel,
  PretrainedModel,
  weightFiles,
  type ModelClass,
  type ModelLayout,
  type ModelSource,
  type PretrainedOptions,
  type RandomOptions,
} from "./pretrained.js";
export * from "./memory/index.js";
