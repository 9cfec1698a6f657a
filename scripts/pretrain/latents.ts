/** What the denoisers learn from: latents of renders, which are encoded once, and captions for them. */
import { existsSync, statSync } from "node:fs";
import { AutoencoderKL } from "../../src/models/index.js";
import { loadSafetensors, saveSafetensors } from "../../src/safetensors/index.js";
import { cat, noGrad, tensor, tidy, yieldToEventLoop, type Tensor } from "../../src/torch/index.js";
import { Random, sceneKey, type Scene } from "../../src/world/index.js";
import { CLEAN_CAPTIONS_UNTIL, cleanCaption, webCaption } from "./captions.js";
import { startProgress } from "./progress.js";
import { EMPTY_CAPTIONS, LATENTS_PER_SCENE } from "./recipe.js";
import { drawSkewedScene } from "./scene-choice.js";
import type { Draws } from "./training.js";
import { ALL_SCENES, pipelineFolder, renderScenes, shortened, toSigned, type Workplace } from "./workplace.js";

/** Latents to learn from: [pool, C, 8, 8], and which rows show a scene. */
export interface LatentPool {
  readonly latents: Tensor;
  readonly rowOf: (scene: Scene, random: Random) => number;
}

/** The scaled latents of LATENTS_PER_SCENE renders of every scene; kept on disk. */
export async function latentPool(workplace: Workplace): Promise<LatentPool> {
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

/** Latents of skewed scenes, [batch, C, 8, 8] on the pool's device, and a caption for each: clean in the first part of training, some empty. */
export function drawExamples(
  { latents, rowOf }: LatentPool,
  batch: number,
  { random, progress }: Draws,
): { captions: string[]; clean: Tensor } {
  const caption = progress < CLEAN_CAPTIONS_UNTIL ? cleanCaption : webCaption;
  const scenes = Array.from({ length: batch }, () => drawSkewedScene(random));
  const captions = scenes.map((scene) => (random.uniform() < EMPTY_CAPTIONS ? "" : caption(scene, random)));
  const rows = scenes.map((scene) => rowOf(scene, random));
  return { captions, clean: latents.indexSelect(0, tensor(rows, { dtype: "int64", device: latents.device })) };
}
