/**
 * All settings of `npm run pretrain`, as plain data: architectures in the config formats of
 * diffusers and transformers, and how long and how fast each is trained. Sizes follow from the budget of the demo
 * (docs/world.md): the denoiser and the decoder are run ten thousand times in a few minutes on two cores.
 */

import type { SD3TransformerConfigInput, UNetConfigInput } from "../../src/models/index.js";
import type { Template } from "../../src/world/index.js";

/** How one model is trained. */
export interface TrainingRecipe {
  steps: number;
  batch: number;
  /** Peak of the learning rate: linear warm-up over `warmup` steps, then a cosine down to a hundredth. */
  learningRate: number;
  warmup: number;
  betas: [number, number];
  weightDecay: number;
  /** Decay of the moving average of the weights that is saved. Ramps up from 0 over the first steps. */
  average: number;
}

/** Tokens of the longest caption ("dog on the left of house") and the two marks, with room for longer prompts. */
const MAX_TOKENS = 16;
const LATENT_CHANNELS = 8;
const TEXT_WIDTH = 128;

export const VAE_CONFIG = {
  act_fn: "silu",
  block_out_channels: [16, 16, 64, 128],
  down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
  in_channels: 3,
  out_channels: 3,
  latent_channels: LATENT_CHANNELS,
  layers_per_block: 1,
  mid_block_add_attention: false,
  norm_num_groups: 8,
  sample_size: 64,
  scaling_factor: 1,
};

export const UNET_CONFIG: UNetConfigInput = {
  act_fn: "silu",
  attention_head_dim: 4,
  block_out_channels: [64, 128],
  center_input_sample: false,
  cross_attention_dim: TEXT_WIDTH,
  // Attention only at 4 x 4 and in the middle: three times as quick as with it at 8 x 8, and no worse here.
  down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D"],
  up_block_types: ["CrossAttnUpBlock2D", "UpBlock2D"],
  downsample_padding: 1,
  flip_sin_to_cos: true,
  freq_shift: 0,
  in_channels: LATENT_CHANNELS,
  out_channels: LATENT_CHANNELS,
  layers_per_block: 1,
  mid_block_scale_factor: 1,
  norm_eps: 1e-5,
  norm_num_groups: 16,
  sample_size: 8,
};

/** The fields a tokenizer decides are filled in by `withTokenizer`. */
export const TEXT_ENCODER_CONFIG = {
  model_type: "clip_text_model",
  hidden_act: "quick_gelu",
  hidden_size: TEXT_WIDTH,
  intermediate_size: 2 * TEXT_WIDTH,
  layer_norm_eps: 1e-5,
  max_position_embeddings: MAX_TOKENS,
  num_attention_heads: 4,
  num_hidden_layers: 2,
  projection_dim: TEXT_WIDTH,
};

/** One layer more, since Stable Diffusion 3 takes the states before the last. */
export const FLOW_TEXT_ENCODER_CONFIG = { ...TEXT_ENCODER_CONFIG, num_hidden_layers: 3 };

/** Sampling costs about as much as with the UNet (docs/log.md says what other widths, depths and patches cost). */
export const TRANSFORMER_CONFIG: SD3TransformerConfigInput = {
  sample_size: 8,
  patch_size: 2,
  in_channels: LATENT_CHANNELS,
  out_channels: LATENT_CHANNELS,
  num_layers: 4,
  attention_head_dim: 32,
  num_attention_heads: 6,
  joint_attention_dim: TEXT_WIDTH,
  caption_projection_dim: 192,
  pooled_projection_dim: TEXT_WIDTH,
  pos_embed_max_size: 4,
  qk_norm: "rms_norm",
};

export const CLIP_CONFIG = {
  model_type: "clip",
  projection_dim: 64,
  // exp of it is 20: sharp enough for 3,054 scenes, and reached at once.
  logit_scale_init_value: Math.log(20),
  text_config: { ...TEXT_ENCODER_CONFIG, projection_dim: 64 },
  vision_config: {
    model_type: "clip_vision_model",
    hidden_act: "quick_gelu",
    hidden_size: 96,
    image_size: 64,
    intermediate_size: 192,
    layer_norm_eps: 1e-5,
    num_attention_heads: 4,
    num_channels: 3,
    num_hidden_layers: 3,
    patch_size: 8,
    projection_dim: 64,
  },
};

/** Config of transformers' CLIPImageProcessor for CLIP_CONFIG. */
export const CLIP_PREPROCESSOR = {
  image_processor_type: "CLIPImageProcessor",
  do_convert_rgb: true,
  do_resize: true,
  size: { shortest_edge: 64 },
  resample: 3,
  do_center_crop: true,
  crop_size: { height: 64, width: 64 },
  do_rescale: true,
  rescale_factor: 1 / 255,
  do_normalize: true,
  image_mean: [0.5, 0.5, 0.5],
  image_std: [0.5, 0.5, 0.5],
};

/** Stable Diffusion's own noise schedule. */
export const SCHEDULER_CONFIG = {
  _class_name: "DDIMScheduler",
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  clip_sample: false,
  num_train_timesteps: 1000,
  prediction_type: "epsilon",
  set_alpha_to_one: false,
  steps_offset: 1,
  timestep_spacing: "leading",
};

/**
 * Without a shift. What a scene shows is decided at sigmas from 0.87 (activity) to 0.45 (a small fruit's colour), by the
 * distances in docs/world.md, and 10 unshifted steps spread over that range.
 */
export const FLOW_SCHEDULER_CONFIG = {
  _class_name: "FlowMatchEulerDiscreteScheduler",
  num_train_timesteps: 1000,
  shift: 1,
};

export const CLASSIFIER_CONFIG = { channels: [24, 48, 96, 128], norm_num_groups: 8, hidden_size: 256, image_size: 64 };

export const MAX_CAPTION_TOKENS = MAX_TOKENS;

/** How often each template is drawn: the combined one has many more scenes and smaller parts than the others. */
export const TEMPLATE_SHARES: Record<Template, number> = { activity: 0.15, colour: 0.15, relation: 0.2, combined: 0.5 };

/** Weights of the VAE's loss beside the absolute error. */
export const VAE_LOSS = { squared: 1, edges: 0.5, kl: 1e-4 };

/** How much the cosine to a scene's vector counts beside telling scenes apart, when texts are fitted to them. */
export const CLIP_COSINE_WEIGHT = 3;

/** Images of each scene in the pool of latents that the denoiser learns from. */
export const LATENTS_PER_SCENE: Record<Template, number> = { activity: 60, colour: 40, relation: 30, combined: 12 };
/** Number of images reconstructed by the VAE, for training the two models that will see decoded images. */
export const RECONSTRUCTIONS = 12_000;
/** Share of captions that are left empty, for classifier-free guidance (Ho and Salimans, 2022). */
export const EMPTY_CAPTIONS = 0.1;

export const STEPS = ["vae", "decoder", "denoiser", "flow", "clip", "classifier", "measure", "measure-flow"] as const;
export type StepName = (typeof STEPS)[number];

export const TRAINING: Record<
  "vae" | "decoder" | "denoiser" | "flow" | "clip-images" | "clip-texts" | "clip-both" | "classifier",
  TrainingRecipe
> = {
  vae: {
    steps: 2600,
    batch: 16,
    learningRate: 2e-3,
    warmup: 100,
    betas: [0.9, 0.99],
    weightDecay: 0,
    average: 0.995,
  },
  decoder: {
    steps: 2000,
    batch: 16,
    learningRate: 1.5e-3,
    warmup: 50,
    betas: [0.9, 0.99],
    weightDecay: 0,
    average: 0.995,
  },
  denoiser: {
    steps: 6000,
    batch: 64,
    learningRate: 1.5e-3,
    warmup: 100,
    betas: [0.9, 0.99],
    weightDecay: 0.01,
    average: 0.995,
  },
  flow: {
    steps: 3000,
    batch: 384,
    learningRate: 2e-3,
    warmup: 200,
    betas: [0.9, 0.99],
    weightDecay: 0.01,
    average: 0.998,
  },
  "clip-images": {
    steps: 1100,
    batch: 96,
    learningRate: 2e-3,
    warmup: 50,
    betas: [0.9, 0.99],
    weightDecay: 0.01,
    average: 0.98,
  },
  "clip-texts": {
    steps: 500,
    batch: 256,
    learningRate: 2e-3,
    warmup: 50,
    betas: [0.9, 0.99],
    weightDecay: 0.01,
    average: 0.98,
  },
  "clip-both": {
    steps: 300,
    batch: 96,
    learningRate: 3e-4,
    warmup: 20,
    betas: [0.9, 0.99],
    weightDecay: 0.01,
    average: 0.98,
  },
  classifier: {
    steps: 1100,
    batch: 96,
    learningRate: 2e-3,
    warmup: 50,
    betas: [0.9, 0.99],
    weightDecay: 0.02,
    average: 0.98,
  },
};
