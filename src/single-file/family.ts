/** Which family a checkpoint of one file belongs to, told from its keys; and what it is when it is none of them. */
import { SafetensorsError, type SafetensorsHeader } from "../safetensors/index.js";

export type Family = "sd1" | "sd2" | "sdxl";

/** Where each part of a family begins its keys. */
export interface Prefixes {
  readonly unet: string;
  readonly vae: string;
  readonly textEncoder: string;
  readonly textEncoder2?: string;
}

export const prefixes: Readonly<Record<Family, Prefixes>> = {
  sd1: {
    unet: "model.diffusion_model.",
    vae: "first_stage_model.",
    textEncoder: "cond_stage_model.transformer.",
  },
  sd2: {
    unet: "model.diffusion_model.",
    vae: "first_stage_model.",
    textEncoder: "cond_stage_model.model.",
  },
  sdxl: {
    unet: "model.diffusion_model.",
    vae: "first_stage_model.",
    textEncoder: "conditioner.embedders.0.transformer.",
    textEncoder2: "conditioner.embedders.1.model.",
  },
};

/** Training's leftovers: the noise schedule, which the scheduler knows, averages of weights, losses. */
const IGNORED =
  /^(alphas_cumprod(_prev)?|betas|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|lvlb_weights|logvar|scale_factor|model_ema\..*|first_stage_model\.loss\..*|denoiser\..*|v_pred|ztsnr|global_step)$/;

/** Kinds of file that people take for a Stable Diffusion checkpoint, by a key that only they have. */
const OTHERS: readonly (readonly [pattern: RegExp, what: string])[] = [
  [/lora_(up|down|A|B)\b|\.lora_/, "a LoRA file: give it as --lora"],
  [/joint_blocks\./, "Stable Diffusion 3, which is not supported"],
  [/double_blocks\./, "Flux, which is not supported"],
  [/^conditioner\.embedders\.0\.model\./, "the SDXL refiner, which is not supported"],
  [/^control_model\./, "a ControlNet, which is not supported"],
  [/^(down_blocks|up_blocks|mid_block)\./, "one part of a diffusers folder: give the whole folder"],
  [/^(encoder|decoder)\./, "a VAE alone"],
  [/^model\.diffusion_model\./, "a UNet without text encoder"],
];

/**
 * The family of a checkpoint.
 *
 * @throws SafetensorsError saying what the file is, where it can be told, when it is of no family
 */
export function detectFamily({ file, tensors }: SafetensorsHeader): Family {
  const has = (key: string): boolean => tensors.has(key);
  const keys = [...tensors.keys()];
  const family =
    has("conditioner.embedders.1.model.ln_final.weight") &&
    keys.some((key) => key.startsWith(prefixes.sdxl.textEncoder))
      ? "sdxl"
      : has("cond_stage_model.model.ln_final.weight")
        ? "sd2"
        : keys.some((key) => key.startsWith(prefixes.sd1.textEncoder))
          ? "sd1"
          : undefined;
  if (family === undefined || !has("model.diffusion_model.input_blocks.0.0.weight")) {
    const other = OTHERS.find(([pattern]) => keys.some((key) => pattern.test(key)));
    throw new SafetensorsError(
      file,
      "Expected a checkpoint of Stable Diffusion 1, 2 or XL in the original layout but received " +
        (other?.[1] ?? `other keys, such as ${keys.slice(0, 3).join(", ")}`),
    );
  }
  const channels = tensors.get("model.diffusion_model.input_blocks.0.0.weight")!.shape[1];
  if (channels !== 4) {
    const kind = channels === 9 ? " (inpainting)" : channels === 8 ? " (image editing)" : "";
    throw new SafetensorsError(file, `Expected 4 channels of latents for the UNet but received ${channels}${kind}`);
  }
  refuseUnknown(file, keys, family);
  return family;
}

function refuseUnknown(file: string, keys: readonly string[], family: Family): void {
  const known = Object.values(prefixes[family]) as string[];
  // OpenCLIP's own scale of similarities, which nothing here uses.
  const rest = keys.filter((key) => !known.some((prefix) => key.startsWith(prefix)) && !IGNORED.test(key));
  if (rest.length > 0) {
    const more = rest.length > 5 ? ` and ${rest.length - 5} more` : "";
    throw new SafetensorsError(
      file,
      `Expected no key of another part but received ${rest.slice(0, 5).join(", ")}${more}`,
    );
  }
}
