/**
 * Step 3: the reward's CLIP, learnt contrastively (Radford et al., 2021) from clean captions.
 *
 * Instead of the other captions of the batch, an image's negatives are the captions of every other scene of the world:
 * so left and right, on and under, and all eight colours of a fruit are told apart in every step, and two captions of
 * one scene are never held against each other. Half of the pictures went through the VAE and back, as those that will
 * be scored have.
 */
import { CLIPModel } from "../../src/models/index.js";
import { CLIPTokenizer } from "../../src/tokenizer/index.js";
import { cat, crossEntropy, Generator, logSoftmax, noGrad, randn, tensor, tidy, type Tensor } from "../../src/torch/index.js"; // prettier-ignore
import { captionsOf, Random, sceneKey, toImages, vocabulary, type Scene } from "../../src/world/index.js";
import { cleanCaption, counterpart } from "./captions.js";
import { CLIP_CONFIG, CLIP_PREPROCESSOR, MAX_CAPTION_TOKENS, RECONSTRUCTIONS, TRAINING } from "./recipe.js";
import { learnTokenizer, saveTokenizer, withTokenizer } from "./tokenizer.js";
import { train } from "./training.js";
import { ALL_SCENES, clipFolder, drawScenes, reconstructedPictures, renderScenes, takeImages, writeJson, type LabelledPictures, type Workplace } from "./workplace.js"; // prettier-ignore

const MAX_LOGIT_SCALE = Math.log(50);
const INDEX_OF_SCENE = new Map(ALL_SCENES.map((scene, i) => [sceneKey(scene), i]));

export async function pretrainClip(workplace: Workplace): Promise<void> {
  const { seed, scale, workFolder } = workplace;
  const recipe = { ...TRAINING.clip, steps: Math.ceil(TRAINING.clip.steps * scale) };
  const folder = clipFolder(workplace);
  const files = learnTokenizer(vocabulary());
  saveTokenizer(files, folder, MAX_CAPTION_TOKENS);
  const tokenizer = CLIPTokenizer.fromPretrained(folder);
  const config = { ...CLIP_CONFIG, text_config: withTokenizer(CLIP_CONFIG.text_config, files) };
  const clip = CLIPModel.fromConfig(config, { generator: new Generator(seed) });
  const { parameters, logitScale } = { parameters: clip.parameters(), logitScale: clip.logitScale };

  const pool = reconstructedPictures(workplace, Math.ceil(RECONSTRUCTIONS * Math.min(1, scale * 2)), new Random(seed));
  const figures = await train({
    name: "clip",
    recipe,
    seed,
    parameters,
    checkpointFile: `${workFolder}/clip.safetensors`,
    loss: (batch, { random, generator }) => {
      const { images, scenes } = mixedBatch(workplace, pool, batch, random);
      const noisy = images.add(randn(images.shape, { generator }).mul(0.025));
      const captions = ALL_SCENES.map((scene) => cleanCaption(scene, random));
      const imageFeatures = unit(clip.getImageFeatures(normalise(noisy)));
      const textFeatures = unit(clip.getTextFeatures(tokenizer.encodeBatch(captions)));
      const logits = imageFeatures
        .matmul(textFeatures.transpose(0, 1))
        .mul(logitScale.clamp({ max: MAX_LOGIT_SCALE }).exp());
      const target = tensor(
        scenes.map((scene) => INDEX_OF_SCENE.get(sceneKey(scene))!),
        { dtype: "int64" },
      );
      const byImage = crossEntropy(logits, target);
      // The other way round, for the scenes in this batch: each caption against all images. A scene may occur twice.
      const byText = logSoftmax(logits, 0).gather(1, target.unsqueeze(1)).mean().neg();
      const right = logits.argmax({ dim: 1 }).eq(target).to({ dtype: "float32" }).mean();
      return { loss: byImage.add(byText.mul(0.5)), figures: { right } };
    },
  });
  clip.savePretrained(folder);
  writeJson(`${folder}/preprocessor_config.json`, CLIP_PREPROCESSOR);
  const random = new Random(seed + 1_000_000_007);
  const heldBack = reconstructedPictures(workplace, 1000, random);
  const clean = { scenes: heldBack.scenes, images: renderScenes(workplace, heldBack.scenes, random) };
  const measured = {
    clean: separation(clip, tokenizer, clean.images, clean.scenes, random),
    reconstructed: separation(clip, tokenizer, toImages(heldBack.pictures), heldBack.scenes, random),
  };
  writeJson(`${folder}/metrics.json`, { training: { ...recipe, seed, ...figures }, ...measured });
  console.log(`clip: ${JSON.stringify(measured)}`);
  clip.dispose();
}

/** Half fresh renders, half decoded pictures. */
export function mixedBatch(workplace: Workplace, pool: LabelledPictures, batch: number, random: Random) {
  const fresh = drawScenes(Math.ceil(batch / 2), random);
  const rows = Array.from({ length: Math.floor(batch / 2) }, () => random.below(pool.scenes.length));
  const images = cat([renderScenes(workplace, fresh, random), takeImages(pool, rows)]);
  return { images, scenes: [...fresh, ...rows.map((row) => pool.scenes[row]!)] };
}

function normalise(images: Tensor): Tensor {
  return images.sub(0.5).div(0.5);
}

function unit(features: Tensor): Tensor {
  return features.div(features.norm({ dim: -1, keepdim: true }));
}

/** Per template: how often an image is closer to its caption than to its counterpart's, and the mean scores of both. */
function separation(
  clip: CLIPModel,
  tokenizer: CLIPTokenizer,
  images: Tensor,
  scenes: readonly Scene[],
  random: Random,
) {
  const scores = (captions: readonly string[]) => {
    let values: number[] = [];
    noGrad(() =>
      tidy(() => {
        const text = unit(clip.getTextFeatures(tokenizer.encodeBatch([...captions])));
        values = unit(clip.getImageFeatures(normalise(images)))
          .mul(text)
          .sum({ dim: 1 })
          .toArray();
      }),
    );
    return values;
  };
  const own = scores(scenes.map((scene) => captionsOf(scene)[0]!));
  const other = scores(scenes.map((scene) => captionsOf(counterpart(scene, random))[0]!));
  const mean = (values: readonly number[]) => Number((values.reduce((a, b) => a + b, 0) / values.length).toFixed(4));
  return Object.fromEntries(
    ["activity", "colour", "relation"].map((template) => {
      const rows = scenes.flatMap((scene, i) => (scene.template === template ? [i] : []));
      return [
        template,
        {
          toldApart: mean(rows.map((i) => Number(own[i]! > other[i]!))),
          own: mean(rows.map((i) => own[i]!)),
          counterpart: mean(rows.map((i) => other[i]!)),
        },
      ];
    }),
  );
}
