/**
 * Step 3: text encoder and UNet together, on the usual loss: predict the noise in a noised latent from the caption
 * (Ho et al., 2020; Rombach et al., 2022). Images are encoded once, into a pool of latents.
 */
import { existsSync, statSync } from "node:fs";
import { AutoencoderKL, CLIPTextModel, UNet2DConditionModel } from "../../src/models/index.js";
import { loadSafetensors, saveSafetensors } from "../../src/safetensors/index.js";
import { DDIMScheduler } from "../../src/schedulers/index.js";
import { CLIPTokenizer } from "../../src/tokenizer/index.js";
import {
  cat,
  Generator,
  mseLoss,
  noGrad,
  randn,
  tensor,
  tidy,
  yieldToEventLoop,
  type Tensor,
} from "../../src/torch/index.js";
import { Random, sceneKey, vocabulary, type Scene } from "../../src/world/index.js";
import { CLEAN_CAPTIONS_UNTIL, cleanCaption, webCaption } from "./captions.js";
import { startProgress } from "./progress.js";
import { EMPTY_CAPTIONS, LATENTS_PER_SCENE, MAX_CAPTION_TOKENS, SCHEDULER_CONFIG, TEXT_ENCODER_CONFIG, TRAINING, UNET_CONFIG } from "./recipe.js"; // prettier-ignore
import { drawSkewedScene } from "./scene-choice.js";
import { learnTokenizer, saveTokenizer, withTokenizer } from "./tokenizer.js";
import { train } from "./training.js";
import {
  ALL_SCENES,
  leaveOutDefaults,
  pipelineFolder,
  renderScenes,
  shortened,
  storeInHalf,
  toSigned,
  writeJson,
  type Workplace,
} from "./workplace.js";

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

  const { latents, rowOf } = await latentPool(workplace);
  const figures = await train({
    name: "denoiser",
    recipe,
    seed,
    parameters: new Map([...prefixed("unet.", unet.parameters()), ...prefixed("text.", textEncoder.parameters())]),
    checkpointFile: `${workFolder}/denoiser.safetensors`,
    loss: (batch, { random, generator, progress }) => {
      const caption = progress < CLEAN_CAPTIONS_UNTIL ? cleanCaption : webCaption;
      const scenes = Array.from({ length: batch }, () => drawSkewedScene(random));
      const captions = scenes.map((scene) => (random.uniform() < EMPTY_CAPTIONS ? "" : caption(scene, random)));
      const rows = scenes.map((scene) => rowOf(scene, random));
      const timesteps = scenes.map(() => random.below(SCHEDULER_CONFIG.num_train_timesteps));
      const clean = latents.indexSelect(0, tensor(rows, { dtype: "int64" }));
      const noise = randn(clean.shape, { generator });
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
  latents.dispose();
}

/** Latents to learn from: [pool, C, 8, 8], and which rows show a scene. */
interface LatentPool {
  readonly latents: Tensor;
  readonly rowOf: (scene: Scene, random: Random) => number;
}

/** The scaled latents of LATENTS_PER_SCENE renders of every scene; kept on disk. */
async function latentPool(workplace: Workplace): Promise<LatentPool> {
  const countOf = ({ template }: Scene): number => shortened(workplace, LATENTS_PER_SCENE[template]);
  const firstRow = new Map<string, number>();
  let total = 0;
  for (const scene of ALL_SCENES) {
    firstRow.set(sceneKey(scene), total);
    total += countOf(scene);
  }
  const rowOf: LatentPool["rowOf"] = (scene, random) => firstRow.get(sceneKey(scene))! + random.below(countOf(scene));

  const vaeFolder = pipelineFolder(workplace, "vae");
  const file = `${workplace.workFolder}/latents.safetensors`;
  const made = existsSync(file) ? statSync(file).mtimeMs : 0;
  if (made > statSync(`${vaeFolder}/diffusion_pytorch_model.safetensors`).mtimeMs) {
    return { latents: loadSafetensors(file).get("latents")!, rowOf };
  }
  const vae = AutoencoderKL.fromPretrained(vaeFolder);
  const random = new Random(workplace.seed);
  const progress = startProgress("latents", total);
  const parts: Tensor[] = [];
  for (const scene of ALL_SCENES) {
    const images = Array<Scene>(countOf(scene)).fill(scene);
    parts.push(
      noGrad(() =>
        tidy(() => {
          const { mean } = vae.encode(toSigned(renderScenes(workplace, images, random)));
          return mean.mul(vae.config.scaling_factor).contiguous({ memoryFormat: "contiguous" });
        }),
      ),
    );
    progress.update(firstRow.get(sceneKey(scene))! + images.length);
    await yieldToEventLoop();
  }
  progress.stop();
  const latents = cat(parts);
  for (const tensor of [...parts, ...vae.parameters().values()]) tensor.dispose();
  saveSafetensors(file, { latents });
  return { latents, rowOf };
}
