/** The parts of Stable Diffusion, one for each subfolder of a diffusers folder. */
import type {
  AutoencoderKL,
  CLIPTextModel,
  CLIPTextModelWithProjection,
  UNet2DConditionModel,
} from "../models/index.js";
import type { Scheduler } from "../schedulers/index.js";
import type { CLIPTokenizer } from "../tokenizer/index.js";
import type { ModelIndex } from "./model-index.js";

export interface Parts {
  readonly index: ModelIndex;
  readonly tokenizer: CLIPTokenizer;
  readonly textEncoder: CLIPTextModel;
  readonly tokenizer2?: CLIPTokenizer;
  readonly textEncoder2?: CLIPTextModelWithProjection;
  readonly unet: UNet2DConditionModel;
  readonly vae: AutoencoderKL;
  readonly scheduler: Scheduler;
}
