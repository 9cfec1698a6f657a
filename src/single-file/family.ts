/** Detects the family of a single-file checkpoint from its keys, or what else the file is. */
import { SafetensorsError, type SafetensorsHeader } from "../safetensors/index.js";

export type Family = "sd1" | "sd2" | "sdxl";

/** The key prefix of each part. */
export interface Prefixes {
  readonly unet: string;
  readonly vae: string;
  readonly textEncoder: string;
  readonly textEncoder2?: string;
}

export const PREFIXES: Readonly<Record<Family, Prefixes>> = {
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

/**
 * Keys that are not needed: leftovers of training (the noise schedule, weight averages), and CLIP's head, which ComfyUI
 * saves with the text encoders.
 */
const IGNORED =
  /^(alphas_cumprod(_prev)?|betas|sqrt_\w+|log_one_minus_alphas_cumprod|posterior_\w+|lvlb_weights|logvar|scale_factor|model_ema\..*|denoiser\..*|v_pred|ztsnr|global_step|(cond_stage_model|conditioner\.embedders\.[01])\.(logit_scale|text_projection(\.weight)?))$/;

/** Other kinds of file that users may pass instead, recognised by a key that only they have. */
const OTHERS: readonly (readonly [pattern: RegExp, what: string])[] = [
  [/lora_(up|down|A|B)\b|\.lora_/, "a LoRA file: use --lora"],
  [/joint_blocks\./, "Stable Diffusion 3: load it with openModel or StableDiffusion3Pipeline"],
  [/double_blocks\./, "Flux, which is not supported"],
  [/^conditioner\.embedders\.0\.model\./, "the SDXL refiner, which is not supported"],
  [/^control_model\./, "a ControlNet, which is not supported"],
  [/^edm_/, "a model of EDM's noise levels (Playground 2.5, CosXL), which is not supported"],
  [/^embedder\./, "Stable unCLIP, which is not supported"],
  [/^(down_blocks|up_blocks|mid_block)\./, "one part of a diffusers folder: use the whole folder"],
  [/^(encoder|decoder)\./, "a VAE alone"],
  [/^model\.diffusion_model\./, "a UNet without text encoder"],
];

/**
 * The family of a checkpoint.
 *
 * @throws SafetensorsError if it is of no known family, saying what the file is if that can be recognised
 */
export function detectFamily({ file, tensors }: SafetensorsHeader): Family {
  const has = (key: string): boolean => tensors.has(key);
  const keys = [...tensors.keys()];
  const family =
    has("conditioner.embedders.1.model.ln_final.weight") &&
    keys.some((key) => key.startsWith(PREFIXES.sdxl.textEncoder))
      ? "sdxl"
      : has("cond_stage_model.model.ln_final.weight")
        ? "sd2"
        : keys.some((key) => key.startsWith(PREFIXES.sd1.textEncoder))
          ? "sd1"
          : undefined;
  if (family === undefined || !has("model.diffusion_model.input_blocks.0.0.weight")) {
    throw new SafetensorsError(
      file,
      "Expected a checkpoint of Stable Diffusion 1, 2 or XL in the original layout but received " +
        (otherThan(keys) ?? `other keys, such as ${keys.slice(0, 3).join(", ")}`),
    );
  }
  if (!has("first_stage_model.decoder.conv_in.weight")) {
    throw new SafetensorsError(file, "Expected a checkpoint with a VAE (first_stage_model) but received one without");
  }
  const channels = tensors.get("model.diffusion_model.input_blocks.0.0.weight")!.shape[1];
  if (channels !== 4) {
    const kind = channels === 9 ? " (inpainting)" : channels === 8 ? " (image editing)" : "";
    throw new SafetensorsError(file, `Expected 4 channels of latents for the UNet but received ${channels}${kind}`);
  }
  refuseUnknown(file, keys, { known: Object.values(PREFIXES[family]), ignored: IGNORED });
  return family;
}

/** What a file is instead, if its keys show it. */
const otherThan = (keys: readonly string[]): string | undefined =>
  OTHERS.find(([pattern]) => keys.some((key) => pattern.test(key)))?.[1];

/**
 * Refuses keys of no part.
 *
 * @param known the prefixes of the parts
 * @throws SafetensorsError naming them, and what the file is if they show it
 */
export function refuseUnknown(
  file: string,
  keys: readonly string[],
  { known, ignored }: { readonly known: readonly string[]; readonly ignored: RegExp },
): void {
  const rest = keys.filter((key) => !known.some((prefix) => key.startsWith(prefix)) && !ignored.test(key));
  if (rest.length > 0) {
    const more = rest.length > 5 ? ` and ${rest.length - 5} more` : "";
    const other = otherThan(rest);
    throw new SafetensorsError(
      file,
      `Expected no key of another part but received ${rest.slice(0, 5).join(", ")}${more}` +
        (other === undefined ? "" : `: this is ${other}`),
    );
  }
}
