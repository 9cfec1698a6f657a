/**
 * Step 3: the reward's CLIP, learnt from clean captions.
 *
 * Trained contrastively from the start (Radford et al., 2021) it does not learn this world's relations within a
 * reasonable time: which of two things is on the left needs the text tower to bind words to places, and until images
 * ask for that there is no gradient to learn it from. So it is done in three parts:
 *   images   the image tower against a free table of one unit vector a scene
 *   texts    the text tower against that table, over all captions
 *   both     the two together, contrastively, without the table
 *
 * Negatives are all the other scenes of the world instead of the others of the batch: left and right, on and under, and
 * all eight colours of a fruit are contrasted in every step, and two captions of one scene are never contrasted with
 * each other. Half of the images went through the VAE, like the images to be scored.
 */
import { CLIPModel } from "../../src/models/index.js";
import { CLIPTokenizer } from "../../src/tokenizer/index.js";
import { crossEntropy, Generator, noGrad, randn, tensor, tidy, type Tensor } from "../../src/torch/index.js";
import { captionsOf, Random, sceneKey, TEMPLATES, toImages, vocabulary, type Scene } from "../../src/world/index.js";
import { cleanCaption, counterpart } from "./captions.js";
import {
  CLIP_CONFIG,
  CLIP_COSINE_WEIGHT,
  CLIP_PREPROCESSOR,
  MAX_CAPTION_TOKENS,
  RECONSTRUCTIONS,
  TRAINING,
} from "./recipe.js";
import { learnTokenizer, saveTokenizer, withTokenizer } from "./tokenizer.js";
import { train, type Draws, type TrainingFigures, type TrainingTask } from "./training.js";
import {
  ALL_SCENES,
  clipFolder,
  leaveOutDefaults,
  mixedBatch,
  reconstructedPictures,
  renderScenes,
  shortened,
  storeInHalf,
  writeJson,
  type Workplace,
} from "./workplace.js";

const INDEX_OF_SCENE = new Map(ALL_SCENES.map((scene, i) => [sceneKey(scene), i]));
const ALL_CAPTIONS = ALL_SCENES.flatMap((scene, index) => captionsOf(scene).map((text) => ({ text, index })));
/** Tokens after the end of a text do not affect its feature and need not be computed. */
const LONGEST_CAPTION = 2 + Math.max(...ALL_CAPTIONS.map(({ text }) => text.split(" ").length));
/** Noise on the training images, whose pixels are in 0..1. */
const PICTURE_NOISE = 0.025;

export async function pretrainClip(workplace: Workplace): Promise<void> {
  const { seed, workFolder } = workplace;
  const folder = clipFolder(workplace);
  const files = learnTokenizer(vocabulary());
  saveTokenizer(files, folder, MAX_CAPTION_TOKENS);
  const tokenizer = CLIPTokenizer.fromPretrained(folder);
  const config = { ...CLIP_CONFIG, text_config: withTokenizer(CLIP_CONFIG.text_config, files) };
  const generator = new Generator(seed);
  const clip = CLIPModel.fromConfig(config, { generator });
  const table = unit(randn([ALL_SCENES.length, CLIP_CONFIG.projection_dim], { generator }));
  const scale = Math.exp(CLIP_CONFIG.logit_scale_init_value);
  const pool = reconstructedPictures(workplace, shortened(workplace, RECONSTRUCTIONS), new Random(seed));

  const imageFeatures = (batch: number, { random, generator }: Draws) => {
    const { images, scenes } = mixedBatch(workplace, pool, batch, random);
    const noise = randn(images.shape, { generator }).mul(PICTURE_NOISE);
    return { features: unit(clip.getImageFeatures(normalise(images.add(noise)))), target: sceneIndices(scenes) };
  };
  const textFeatures = (texts: readonly string[]) =>
    unit(clip.getTextFeatures(tokenizer.encodeBatch([...texts]).slice(1, 0, LONGEST_CAPTION)));
  const part = (
    name: "clip-images" | "clip-texts" | "clip-both",
    parameters: ReadonlyMap<string, Tensor>,
    loss: TrainingTask["loss"],
  ): Promise<TrainingFigures> => {
    const recipe = { ...TRAINING[name], steps: shortened(workplace, TRAINING[name].steps) };
    return train({ name, recipe, seed, parameters, loss, checkpointFile: `${workFolder}/${name}.safetensors` });
  };
  const tower = (pattern: RegExp) => [...clip.parameters()].filter(([key]) => pattern.test(key));
  const vision = tower(/^vision_model|^visual_projection/);
  const text = tower(/^text_model|^text_projection/);

  const images = await part("clip-images", new Map([...vision, ["table", table]]), (batch, draws) => {
    const { features, target } = imageFeatures(batch, draws);
    return contrast(features.matmul(unit(table).transpose(0, 1)).mul(scale), target);
  });
  const vectors = unit(table);
  const texts = await part("clip-texts", new Map(text), (batch, { random }) => {
    const captions = random.shuffled(ALL_CAPTIONS).slice(0, batch);
    const features = textFeatures(captions.map((caption) => caption.text));
    const target = tensor(captions.map(({ index }) => index), { dtype: "int64" }); // prettier-ignore
    const { loss, figures } = contrast(features.matmul(vectors.transpose(0, 1)).mul(scale), target);
    const cosine = features.mul(vectors.indexSelect(0, target)).sum({ dim: 1 }).mean();
    return { loss: loss.sub(cosine.mul(CLIP_COSINE_WEIGHT)), figures: { ...figures, cosine } };
  });
  const both = await part("clip-both", new Map([...vision, ...text]), (batch, draws) => {
    const { features, target } = imageFeatures(batch, draws);
    const captions = textFeatures(ALL_SCENES.map((scene) => cleanCaption(scene, draws.random)));
    return contrast(features.matmul(captions.transpose(0, 1)).mul(scale), target);
  });
  clip.savePretrained(folder);
  storeInHalf(folder, "model");
  leaveOutDefaults(folder);
  writeJson(`${folder}/preprocessor_config.json`, CLIP_PREPROCESSOR);

  const random = new Random(seed + 1_000_000_007);
  const decoded = reconstructedPictures(workplace, shortened(workplace, 1000), random);
  const measured = {
    clean: separation(clip, textFeatures, renderScenes(workplace, decoded.scenes, random), decoded.scenes, random),
    reconstructed: separation(clip, textFeatures, toImages(decoded.pictures), decoded.scenes, random),
  };
  writeJson(`${folder}/metrics.json`, { training: { seed, images, texts, both }, ...measured });
  console.log(`clip: ${JSON.stringify(measured, null, 1)}`);
  for (const kept of [clip, table, vectors]) kept.dispose();
}

function contrast(logits: Tensor, target: Tensor): { loss: Tensor; figures: Record<string, Tensor> } {
  const right = logits.argmax({ dim: 1 }).eq(target).to({ dtype: "float32" }).mean();
  return { loss: crossEntropy(logits, target), figures: { right } };
}

function sceneIndices(scenes: readonly Scene[]): Tensor {
  return tensor(scenes.map((scene) => INDEX_OF_SCENE.get(sceneKey(scene))!), { dtype: "int64" }); // prettier-ignore
}

/** CLIP_PREPROCESSOR's mean and standard deviation. */
function normalise(images: Tensor): Tensor {
  return images.sub(0.5).div(0.5);
}

function unit(features: Tensor): Tensor {
  return features.div(features.norm({ dim: -1, keepdim: true }));
}

/** Per template: how often an image is closer to its caption than to its counterpart's, and the mean cosine of both. */
function separation(
  clip: CLIPModel,
  textFeatures: (texts: readonly string[]) => Tensor,
  images: Tensor,
  scenes: readonly Scene[],
  random: Random,
) {
  const cosines = (captions: readonly string[]) => {
    let values: number[] = [];
    noGrad(() =>
      tidy(() => {
        values = unit(clip.getImageFeatures(normalise(images))).mul(textFeatures(captions)).sum({ dim: 1 }).toArray(); // prettier-ignore
      }),
    );
    return values;
  };
  const own = cosines(scenes.map((scene) => captionsOf(scene)[0]!));
  const other = cosines(scenes.map((scene) => captionsOf(counterpart(scene, random))[0]!));
  const mean = (values: readonly number[]) => Number((values.reduce((a, b) => a + b, 0) / values.length).toFixed(4));
  return Object.fromEntries(
    TEMPLATES.map((template) => {
      const rows = scenes.flatMap((scene, i) => (scene.template === template ? [i] : []));
      const told = mean(rows.map((i) => Number(own[i]! > other[i]!)));
      return [template, { toldApart: told, own: mean(rows.map((i) => own[i]!)), counterpart: mean(rows.map((i) => other[i]!)) }]; // prettier-ignore
    }),
  );
}
