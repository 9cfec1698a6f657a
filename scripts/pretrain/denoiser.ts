/**
 * Step "denoiser": text encoder and UNet together, on the usual loss: predict the noise in a noised latent from the
 * caption (Ho et al., 2020; Rombach et al., 2022).
 */
import { CLIPTextModel, UNet2DConditionModel } from "../../src/models/index.js";
import { DDIMScheduler } from "../../src/schedulers/index.js";
import { CLIPTokenizer } from "../../src/tokenizer/index.js";
import { Generator, mseLoss, randn, type Tensor } from "../../src/torch/index.js";
import { vocabulary } from "../../src/world/index.js";
import { drawExamples, latentPool } from "./latents.js";
import { MAX_CAPTION_TOKENS, SCHEDULER_CONFIG, TEXT_ENCODER_CONFIG, TRAINING, UNET_CONFIG } from "./recipe.js";
import { learnTokenizer, saveTokenizer, withTokenizer } from "./tokenizer.js";
import { train } from "./training.js";
import { leaveOutDefaults, pipelineFolder, shortened, storeInHalf, writeJson, type Workplace } from "./workplace.js";

export async function pretrainDenoiser(workplace: Workplace): Promise<void> {
  const { seed, workFolder } = workplace;
  const recipe = { ...TRAINING.denoiser, steps: shortened(workplace, TRAINING.denoiser.steps) };
  const folder = (part: string) => pipelineFolder(workplace, part);
  const files = learnTokenizer(vocabulary());
  saveTokenizer(files, folder("tokenizer"), MAX_CAPTION_TOKENS);
  writeJson(`${folder("scheduler")}/scheduler_config.json`, SCHEDULER_CONFIG);
  writeJson(`${pipelineFolder(workplace)}/model_index.json`, {
    _class_name: "StableDiffusionPipeline",
    scheduler: ["diffusers", "DDIMScheduler"],
    text_encoder: ["transformers", "CLIPTextModel"],
    tokenizer: ["transformers", "CLIPTokenizer"],
    unet: ["diffusers", "UNet2DConditionModel"],
    vae: ["diffusers", "AutoencoderKL"],
    safety_checker: [null, null],
    feature_extractor: [null, null],
    requires_safety_checker: false,
  });
  const tokenizer = CLIPTokenizer.fromPretrained(folder("tokenizer"));
  const scheduler = DDIMScheduler.fromPretrained(folder("scheduler"));

  const generator = new Generator(seed);
  const unet = UNet2DConditionModel.fromConfig(UNET_CONFIG, { generator });
  const textEncoder = CLIPTextModel.fromConfig(withTokenizer(TEXT_ENCODER_CONFIG, files), { generator });
  const prefixed = (prefix: string, map: ReadonlyMap<string, Tensor>) =>
    [...map].map(([key, t]) => [prefix + key, t] as const);

  const pool = await latentPool(workplace);
  const figures = await train({
    name: "denoiser",
    recipe,
    seed,
    parameters: new Map([...prefixed("unet.", unet.parameters()), ...prefixed("text.", textEncoder.parameters())]),
    checkpointFile: `${workFolder}/denoiser.safetensors`,
    loss: (batch, draws) => {
      const { captions, clean } = drawExamples(pool, batch, draws);
      const timesteps = captions.map(() => draws.random.below(SCHEDULER_CONFIG.num_train_timesteps));
      const noise = randn(clean.shape, { generator: draws.generator });
      const noisy = scheduler.addNoise(clean, noise, timesteps).contiguous({ memoryFormat: "channelsLast" });
      const hidden = textEncoder.forward(tokenizer.encodeBatch(captions)).lastHiddenState;
      return { loss: mseLoss(unet.forward(noisy, timesteps, hidden), noise) };
    },
  });
  unet.savePretrained(folder("unet"));
  textEncoder.savePretrained(folder("text_encoder"));
  storeInHalf(folder("unet"), "diffusion_pytorch_model");
  storeInHalf(folder("text_encoder"), "model");
  leaveOutDefaults(folder("text_encoder"));
  writeJson(`${folder("unet")}/metrics.json`, { training: { ...recipe, seed, ...figures } });
  for (const model of [unet, textEncoder]) model.dispose();
  pool.latents.dispose();
}
