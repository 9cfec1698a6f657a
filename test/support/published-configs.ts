/**
 * The configs of published models, key by key as their folders have them. What is the same in several is written once.
 */

type Config = Readonly<Record<string, unknown>>;

const unet: Config = {
  _class_name: "UNet2DConditionModel",
  _diffusers_version: "0.10.0.dev0",
  act_fn: "silu",
  attention_head_dim: 8,
  block_out_channels: [320, 640, 1280, 1280],
  center_input_sample: false,
  cross_attention_dim: 768,
  down_block_types: ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  downsample_padding: 1,
  flip_sin_to_cos: true,
  freq_shift: 0,
  in_channels: 4,
  layers_per_block: 2,
  mid_block_scale_factor: 1,
  norm_eps: 1e-5,
  norm_num_groups: 32,
  out_channels: 4,
  sample_size: 64,
  up_block_types: ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
};

const later = { dual_cross_attention: false, num_class_embeds: null, only_cross_attention: false };

const unet14: Config = {
  ...unet,
  ...later,
  _diffusers_version: "0.12.0.dev0",
  class_embed_type: null,
  mid_block_type: "UNetMidBlock2DCrossAttn",
  resnet_time_scale_shift: "default",
  upcast_attention: false,
  use_linear_projection: false,
};

const unet2: Config = {
  ...unet,
  ...later,
  attention_head_dim: [5, 10, 20, 20],
  cross_attention_dim: 1024,
  use_linear_projection: true,
};

const unetXL: Config = {
  ...unet14,
  _diffusers_version: "0.19.0.dev0",
  addition_embed_type: "text_time",
  addition_embed_type_num_heads: 64,
  addition_time_embed_dim: 256,
  attention_head_dim: [5, 10, 20],
  block_out_channels: [320, 640, 1280],
  class_embeddings_concat: false,
  conv_in_kernel: 3,
  conv_out_kernel: 3,
  cross_attention_dim: 2048,
  cross_attention_norm: null,
  down_block_types: ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
  encoder_hid_dim: null,
  encoder_hid_dim_type: null,
  mid_block_only_cross_attention: null,
  num_attention_heads: null,
  projection_class_embeddings_input_dim: 2816,
  resnet_out_scale_factor: 1.0,
  resnet_skip_time_act: false,
  sample_size: 128,
  time_cond_proj_dim: null,
  time_embedding_act_fn: null,
  time_embedding_dim: null,
  time_embedding_type: "positional",
  timestep_post_act: null,
  transformer_layers_per_block: [1, 2, 10],
  up_block_types: ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
  upcast_attention: null,
  use_linear_projection: true,
};

const vae: Config = {
  _class_name: "AutoencoderKL",
  _diffusers_version: "0.2.2",
  act_fn: "silu",
  block_out_channels: [128, 256, 512, 512],
  down_block_types: ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
  in_channels: 3,
  latent_channels: 4,
  layers_per_block: 2,
  out_channels: 3,
  sample_size: 512,
  up_block_types: ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
};

const vaeXL: Config = {
  ...vae,
  _diffusers_version: "0.20.0.dev0",
  _name_or_path: "../sdxl-vae/",
  force_upcast: true,
  norm_num_groups: 32,
  sample_size: 1024,
  scaling_factor: 0.13025,
};

const text: Config = {
  _name_or_path: "openai/clip-vit-large-patch14",
  architectures: ["CLIPTextModel"],
  attention_dropout: 0.0,
  bos_token_id: 0,
  dropout: 0.0,
  eos_token_id: 2,
  hidden_act: "quick_gelu",
  hidden_size: 768,
  initializer_factor: 1.0,
  initializer_range: 0.02,
  intermediate_size: 3072,
  layer_norm_eps: 1e-5,
  max_position_embeddings: 77,
  model_type: "clip_text_model",
  num_attention_heads: 12,
  num_hidden_layers: 12,
  pad_token_id: 1,
  torch_dtype: "float32",
  transformers_version: "4.21.0.dev0",
  vocab_size: 49408,
};

const text2: Config = {
  ...text,
  _name_or_path: "stabilityai/stable-diffusion-2",
  hidden_act: "gelu",
  hidden_size: 1024,
  intermediate_size: 4096,
  num_attention_heads: 16,
  num_hidden_layers: 23,
  projection_dim: 512,
  transformers_version: "4.25.0.dev0",
};

const textXL2: Config = {
  ...text2,
  architectures: ["CLIPTextModelWithProjection"],
  hidden_size: 1280,
  intermediate_size: 5120,
  num_attention_heads: 20,
  num_hidden_layers: 32,
  projection_dim: 1280,
  torch_dtype: "float16",
};

const scheduler: Config = {
  _class_name: "PNDMScheduler",
  _diffusers_version: "0.7.0.dev0",
  beta_end: 0.012,
  beta_schedule: "scaled_linear",
  beta_start: 0.00085,
  num_train_timesteps: 1000,
  set_alpha_to_one: false,
  skip_prk_steps: true,
  steps_offset: 1,
  trained_betas: null,
  clip_sample: false,
};

const velocity = { _class_name: "DDIMScheduler", _diffusers_version: "0.8.0", prediction_type: "v_prediction" };
const euler = {
  _class_name: "EulerDiscreteScheduler",
  interpolation_type: "linear",
  prediction_type: "epsilon",
  sample_max_value: 1.0,
  timestep_spacing: "leading",
  use_karras_sigmas: false,
};

const of = (library: string, className: string) => [library, className];

const index: Config = {
  _class_name: "StableDiffusionPipeline",
  _diffusers_version: "0.10.0.dev0",
  feature_extractor: of("transformers", "CLIPImageProcessor"),
  requires_safety_checker: false,
  safety_checker: [null, null],
  scheduler: of("diffusers", "PNDMScheduler"),
  text_encoder: of("transformers", "CLIPTextModel"),
  tokenizer: of("transformers", "CLIPTokenizer"),
  unet: of("diffusers", "UNet2DConditionModel"),
  vae: of("diffusers", "AutoencoderKL"),
};

const indexXL: Config = {
  ...index,
  _class_name: "StableDiffusionXLPipeline",
  force_zeros_for_empty_prompt: true,
  add_watermarker: null,
  scheduler: of("diffusers", "EulerDiscreteScheduler"),
  text_encoder_2: of("transformers", "CLIPTextModelWithProjection"),
  tokenizer_2: of("transformers", "CLIPTokenizer"),
};

/** The parts of Stable Diffusion 3 that are not Stable Diffusion's. */
export interface PublishedFlowModel {
  readonly transformer: Config;
  readonly vae: Config;
  readonly textEncoder3: Config;
  readonly scheduler: Config;
}

const transformer3: Config = {
  _class_name: "SD3Transformer2DModel",
  _diffusers_version: "0.29.0.dev0",
  attention_head_dim: 64,
  caption_projection_dim: 1536,
  in_channels: 16,
  joint_attention_dim: 4096,
  num_attention_heads: 24,
  num_layers: 24,
  out_channels: 16,
  patch_size: 2,
  pooled_projection_dim: 2048,
  pos_embed_max_size: 192,
  sample_size: 128,
};

const base3 = {
  vae: {
    ...vaeXL,
    latent_channels: 16,
    latents_mean: null,
    latents_std: null,
    mid_block_add_attention: true,
    scaling_factor: 1.5305,
    shift_factor: 0.0609,
    use_post_quant_conv: false,
    use_quant_conv: false,
  },
  textEncoder3: {
    _name_or_path: "google/t5-v1_1-xxl",
    architectures: ["T5EncoderModel"],
    classifier_dropout: 0.0,
    d_ff: 10240,
    d_kv: 64,
    d_model: 4096,
    decoder_start_token_id: 0,
    dense_act_fn: "gelu_new",
    dropout_rate: 0.1,
    eos_token_id: 1,
    feed_forward_proj: "gated-gelu",
    initializer_factor: 1.0,
    is_encoder_decoder: true,
    is_gated_act: true,
    layer_norm_epsilon: 1e-6,
    model_type: "t5",
    num_decoder_layers: 24,
    num_heads: 64,
    num_layers: 24,
    output_past: true,
    pad_token_id: 0,
    relative_attention_max_distance: 128,
    relative_attention_num_buckets: 32,
    tie_word_embeddings: false,
    torch_dtype: "float16",
    transformers_version: "4.41.2",
    use_cache: true,
    vocab_size: 32128,
  },
  scheduler: {
    _class_name: "FlowMatchEulerDiscreteScheduler",
    _diffusers_version: "0.29.0.dev0",
    num_train_timesteps: 1000,
    shift: 3.0,
  },
};

export const publishedFlowModels: Readonly<Record<string, PublishedFlowModel>> = {
  "stable-diffusion-3-medium": { ...base3, transformer: transformer3 },
  "stable-diffusion-3.5-medium": {
    ...base3,
    transformer: {
      ...transformer3,
      dual_attention_layers: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
      pos_embed_max_size: 384,
      qk_norm: "rms_norm",
    },
  },
  "stable-diffusion-3.5-large": {
    ...base3,
    transformer: {
      ...transformer3,
      caption_projection_dim: 2432,
      dual_attention_layers: [],
      num_attention_heads: 38,
      num_layers: 38,
      qk_norm: "rms_norm",
    },
  },
};

export interface PublishedModel {
  readonly index: Config;
  readonly unet: Config;
  readonly vae: Config;
  readonly textEncoder: Config;
  readonly textEncoder2?: Config;
  readonly scheduler: Config;
}

const base1 = { index, unet, vae, textEncoder: text, scheduler };
const base2 = {
  index,
  unet: unet2,
  vae: { ...vae, norm_num_groups: 32, sample_size: 768 },
  textEncoder: text2,
  scheduler: { ...scheduler, prediction_type: "epsilon" },
};
const baseXL = {
  index: indexXL,
  unet: unetXL,
  vae: vaeXL,
  textEncoder: { ...text, projection_dim: 768 },
  textEncoder2: textXL2,
  scheduler: { ...scheduler, ...euler },
};

/** Schedulers as they are saved after another sampler was chosen: its own keys beside the noise schedule. */
const samplers: Readonly<Record<string, Config>> = {
  DPMSolverMultistepScheduler: {
    algorithm_type: "dpmsolver++",
    dynamic_thresholding_ratio: 0.995,
    euler_at_final: false,
    final_sigmas_type: "zero",
    flow_shift: 1.0,
    lambda_min_clipped: "-Infinity",
    lower_order_final: true,
    rescale_betas_zero_snr: false,
    sample_max_value: 1.0,
    solver_order: 2,
    solver_type: "midpoint",
    thresholding: false,
    time_shift_type: "exponential",
    timestep_spacing: "linspace",
    use_beta_sigmas: false,
    use_dynamic_shifting: false,
    use_exponential_sigmas: false,
    use_flow_sigmas: false,
    use_karras_sigmas: true,
    use_lu_lambdas: false,
    variance_type: null,
  },
  UniPCMultistepScheduler: {
    disable_corrector: [],
    final_sigmas_type: "zero",
    lower_order_final: true,
    predict_x0: true,
    shift_terminal: null,
    sigma_max: null,
    sigma_min: null,
    solver_order: 2,
    solver_p: null,
    solver_type: "bh2",
    thresholding: false,
  },
  LCMScheduler: {
    clip_sample_range: 1.0,
    dynamic_thresholding_ratio: 0.995,
    original_inference_steps: 50,
    rescale_betas_zero_snr: false,
    sample_max_value: 1.0,
    thresholding: false,
    timestep_scaling: 10.0,
    timestep_spacing: "leading",
  },
  LMSDiscreteScheduler: { timestep_values: null },
  EulerAncestralDiscreteScheduler: {
    interpolation_type: "linear",
    sample_max_value: 1.0,
    timestep_spacing: "linspace",
  },
};

export const publishedModels: Readonly<Record<string, PublishedModel>> = {
  "stable-diffusion-v1-4, first form": base1,
  "stable-diffusion-v1-4": { ...base1, unet: unet14, vae: { ...vae, scaling_factor: 0.18215 } },
  "stable-diffusion-v1-5": {
    ...base1,
    index: { ...index, safety_checker: of("stable_diffusion", "StableDiffusionSafetyChecker") },
  },
  "stable-diffusion-2-base": base2,
  "stable-diffusion-2": {
    ...base2,
    unet: { ...unet2, sample_size: 96 },
    scheduler: { ...scheduler, ...velocity },
  },
  "stable-diffusion-2-1-base": base2,
  "stable-diffusion-2-1": {
    ...base2,
    unet: { ...unet2, sample_size: 96, upcast_attention: true },
    scheduler: { ...scheduler, ...velocity },
  },
  "stable-diffusion-xl-base-1.0": baseXL,
  "sdxl-turbo": {
    ...baseXL,
    unet: {
      ...unetXL,
      attention_type: "default",
      dropout: 0.0,
      reverse_transformer_layers_per_block: null,
      sample_size: 64,
    },
    scheduler: {
      ...scheduler,
      ...euler,
      _class_name: "EulerAncestralDiscreteScheduler",
      timestep_spacing: "trailing",
    },
  },
  "a fine-tune of 1.5 with the keys of diffusers 0.21": {
    ...base1,
    index: { ...index, image_encoder: [null, null], _name_or_path: "runwayml/stable-diffusion-v1-5" },
    unet: {
      ...unetXL,
      ...unet14,
      addition_embed_type: null,
      addition_time_embed_dim: null,
      transformer_layers_per_block: 1,
    },
    vae: { ...vae, force_upcast: true, latents_mean: null, latents_std: null, norm_num_groups: 32 },
    scheduler: { ...scheduler, _class_name: "DPMSolverMultistepScheduler", ...samplers["DPMSolverMultistepScheduler"] },
  },
  ...Object.fromEntries(
    Object.entries(samplers).map(([name, own]) => [
      `a fine-tune of 1.5 saved with ${name}`,
      { ...base1, scheduler: { ...scheduler, _class_name: name, ...own } },
    ]),
  ),
  "a fine-tune of SDXL by v-prediction from noise alone": {
    ...baseXL,
    scheduler: {
      ...{ ...scheduler, ...euler, final_sigmas_type: "zero", sigma_max: null, sigma_min: null },
      ...{ prediction_type: "v_prediction", rescale_betas_zero_snr: true, timestep_spacing: "trailing" },
      timestep_type: "discrete",
    },
  },
  "a fine-tune of SDXL with averaged weights": {
    ...baseXL,
    unet: {
      ...unetXL,
      ...{ decay: 0.9999, inv_gamma: 1.0, min_decay: 0.0, optimization_step: 37000, power: 0.6666666666666666 },
      ...{ update_after_step: 0, use_ema_warmup: false },
    },
  },
  "SSD-1B": {
    ...baseXL,
    unet: {
      ...unetXL,
      mid_block_type: "UNetMidBlock2D",
      reverse_transformer_layers_per_block: [[4, 4, 10], [2, 1, 1], 1],
      transformer_layers_per_block: [1, [2, 2], [4, 4]],
    },
  },
};

/** What transformers of before 4.30 wrote into every tower's config besides its own. */
const generation = {
  add_cross_attention: false,
  bad_words_ids: null,
  chunk_size_feed_forward: 0,
  decoder_start_token_id: null,
  diversity_penalty: 0.0,
  id2label: { "0": "LABEL_0", "1": "LABEL_1" },
  is_decoder: false,
  label2id: { LABEL_0: 0, LABEL_1: 1 },
  max_length: 20,
  num_beams: 1,
  return_dict: true,
  temperature: 1.0,
  top_k: 50,
  torchscript: false,
  use_bfloat16: false,
};

const vision: Config = {
  ...generation,
  attention_dropout: 0.0,
  bos_token_id: null,
  dropout: 0.0,
  eos_token_id: null,
  hidden_act: "quick_gelu",
  hidden_size: 1024,
  image_size: 224,
  initializer_factor: 1.0,
  initializer_range: 0.02,
  intermediate_size: 4096,
  layer_norm_eps: 1e-5,
  model_type: "clip_vision_model",
  num_attention_heads: 16,
  num_hidden_layers: 24,
  pad_token_id: null,
  patch_size: 14,
  projection_dim: 768,
};

const clip: Config = {
  _name_or_path: "clip-vit-large-patch14/",
  architectures: ["CLIPModel"],
  initializer_factor: 1.0,
  logit_scale_init_value: 2.6592,
  model_type: "clip",
  projection_dim: 768,
  text_config: { ...generation, ...text, projection_dim: 768 },
  text_config_dict: {
    hidden_size: 768,
    intermediate_size: 3072,
    num_attention_heads: 12,
    num_hidden_layers: 12,
    projection_dim: 768,
  },
  torch_dtype: "float32",
  transformers_version: null,
  vision_config: vision,
  vision_config_dict: {
    hidden_size: 1024,
    intermediate_size: 4096,
    num_attention_heads: 16,
    num_hidden_layers: 24,
    patch_size: 14,
    projection_dim: 768,
  },
};

const laion = (projection: number, ownText: Config, ownVision: Config): Config => ({
  ...clip,
  projection_dim: projection,
  text_config: { ...generation, ...text, ...ownText, hidden_act: "gelu", projection_dim: projection },
  text_config_dict: null,
  vision_config: { ...vision, ...ownVision, hidden_act: "gelu", projection_dim: projection },
  vision_config_dict: null,
});

export const publishedClips: Readonly<Record<string, Config>> = {
  "openai/clip-vit-large-patch14": clip,
  "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": laion(
    1024,
    { hidden_size: 1024, intermediate_size: 4096, num_attention_heads: 16, num_hidden_layers: 24 },
    { hidden_size: 1280, intermediate_size: 5120, num_attention_heads: 16, num_hidden_layers: 32 },
  ),
  "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": laion(
    1280,
    { hidden_size: 1280, intermediate_size: 5120, num_attention_heads: 20, num_hidden_layers: 32 },
    { hidden_size: 1664, intermediate_size: 8192, num_attention_heads: 16, num_hidden_layers: 48 },
  ),
};
