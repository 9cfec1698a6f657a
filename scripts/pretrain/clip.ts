/**
 * Step "clip": the reward's CLIP, learnt from clean captions.
 *
 * Trained contrastively from the start (Radford et al., 2021) it does not learn this world's relations within a
 * reasonable time: which of two things is on the left needs the text tower to bind words to places, and until images
 * ask for that there is no gradient to learn it from. So it is done in three parts:
 *   images   the image tower against free vectors of scenes, each the sum of one vector a slot
 *   texts    the text tower against those vectors
 *   both     the two together, contrastively, without them
 *
 * Negatives are other scenes of the world instead of the others of the batch: all of them in the first two parts; in the
 * third those that captions confuse with the batch's, and some more. So left and right, on and under, and the colours of
 * a fruit are contrasted in every step, and two captions of one scene are never contrasted with each other. Half of the
 * images went through the VAE, like the images to be scored.
 */
import { CLIPModel } from "../../src/models/index.js";
import { CLIPTokenizer } from "../../src/tokenizer/index.js";
import { crossEntropy, Generator, noGrad, randn, tensor, tidy, type Tensor } from "../../src/torch/index.js";
import {
  captionsOf,
  Random,
  sceneKey,
  SLOT_NAMES,
  SLOTS,
  TEMPLATES,
  toImages,
  vocabulary,
  type Scene,
} from "../../src/world/index.js";
import { cleanCaption, CONFUSIONS } from "./captions.js";
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
  drawScenes,
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
/** Tokens after the end of a text do not affect its feature and need not be computed. */
const LONGEST_CAPTION = 2 + Math.max(...ALL_SCENES.flatMap(captionsOf).map((text) => text.split(" ").length));
/** Every value of every slot. */
const SLOT_VALUES = SLOT_NAMES.flatMap((slot) => SLOTS[slot].map((value) => `${slot}/${value}`));
/** Noise on the training images, whose pixels are in 0..1. */
const PICTURE_NOISE = 0.025;
/** How many scenes are contrasted with a batch when both towers learn, besides those that captions confuse with it. */
const OTHER_NEGATIVES = 128;

export async function pretrainClip(workplace: Workplace): Promise<void> {
  const { seed, workFolder } = workplace;
  const folder = clipFolder(workplace);
  const files = learnTokenizer(vocabulary());
  saveTokenizer(files, folder, MAX_CAPTION_TOKENS);
  const tokenizer = CLIPTokenizer.fromPretrained(folder);
  const config = { ...CLIP_CONFIG, text_config: withTokenizer(CLIP_CONFIG.text_config, files) };
  const generator = new Generator(seed);
  const clip = CLIPModel.fromConfig(config, { generator });
  const table = unit(randn([SLOT_VALUES.length, CLIP_CONFIG.projection_dim], { generator }));
  const memberships = slotMemberships();
  const sceneVectors = () => unit(memberships.matmul(table));
  const scale = Math.exp(CLIP_CONFIG.logit_scale_init_value);
  const pool = reconstructedPictures(workplace, shortened(workplace, RECONSTRUCTIONS), new Random(seed));

  const imageFeatures = (batch: number, { random, generator }: Draws) => {
    const { images, scenes } = mixedBatch(workplace, pool, batch, random);
    const noise = randn(images.shape, { generator }).mul(PICTURE_NOISE);
    return {
      features: unit(clip.getImageFeatures(normalise(images.add(noise)))),
      scenes,
      target: sceneIndices(scenes),
    };
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
    return contrast(features.matmul(sceneVectors().transpose(0, 1)).mul(scale), target);
  });
  const vectors = noGrad(sceneVectors);
  const texts = await part("clip-texts", new Map(text), (batch, { random }) => {
    const scenes = drawScenes(batch, random);
    const features = textFeatures(scenes.map((scene) => cleanCaption(scene, random)));
    const target = sceneIndices(scenes);
    const { loss, figures } = contrast(features.matmul(vectors.transpose(0, 1)).mul(scale), target);
    const cosine = features.mul(vectors.indexSelect(0, target)).sum({ dim: 1 }).mean();
    return { loss: loss.sub(cosine.mul(CLIP_COSINE_WEIGHT)), figures: { ...figures, cosine } };
  });
  const both = await part("clip-both", new Map([...vision, ...text]), (batch, draws) => {
    const { random } = draws;
    const { features, scenes } = imageFeatures(batch, draws);
    const { candidates, target } = withNegatives(scenes, random);
    const captions = textFeatures(candidates.map((scene) => cleanCaption(scene, random)));
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
  for (const kept of [clip, table, memberships, vectors]) kept.dispose();
}

/** Which slot values make up each scene, [scenes, SLOT_VALUES], 1 or 0. */
function slotMemberships(): Tensor {
  const index = new Map(SLOT_VALUES.map((name, i) => [name, i]));
  const values = new Float32Array(ALL_SCENES.length * SLOT_VALUES.length);
  ALL_SCENES.forEach((scene, row) => {
    for (const [slot, value] of Object.entries(scene)) values[row * SLOT_VALUES.length + index.get(`${slot}/${value}`)!] = 1; // prettier-ignore
  });
  return tensor(values, { shape: [ALL_SCENES.length, SLOT_VALUES.length] });
}

/** Different scenes to choose among: a batch's own, what captions confuse them with, and others. */
function withNegatives(scenes: readonly Scene[], random: Random): { candidates: Scene[]; target: Tensor } {
  const confused = scenes.flatMap((scene) => CONFUSIONS[scene.template].map(({ of }) => of(scene, random)));
  const candidates = new Map(
    [...scenes, ...confused, ...drawScenes(OTHER_NEGATIVES, random)].map((scene) => [sceneKey(scene), scene]),
  );
  const place = new Map([...candidates.keys()].map((key, i) => [key, i]));
  const target = tensor(scenes.map((scene) => place.get(sceneKey(scene))!), { dtype: "int64" }); // prettier-ignore
  return { candidates: [...candidates.values()], target };
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

/** Per template and slot: how often an image is closer to its caption than to its counterpart's, and the mean cosines. */
function separation(
  clip: CLIPModel,
  textFeatures: (texts: readonly string[]) => Tensor,
  images: Tensor,
  scenes: readonly Scene[],
  random: Random,
) {
  const features = noGrad(() => unit(clip.getImageFeatures(normalise(images))));
  const cosines = (rows: readonly number[], of: (scene: Scene) => Scene) => {
    let values: number[] = [];
    noGrad(() =>
      tidy(() => {
        const captions = rows.map((row) => captionsOf(of(scenes[row]!))[0]!);
        const chosen = features.indexSelect(0, tensor([...rows], { dtype: "int64" }));
        values = chosen.mul(textFeatures(captions)).sum({ dim: 1 }).toArray();
      }),
    );
    return values;
  };
  const mean = (values: readonly number[]) => Number((values.reduce((a, b) => a + b, 0) / values.length).toFixed(4));
  const result = TEMPLATES.map((template) => {
    const rows = scenes.flatMap((scene, i) => (scene.template === template ? [i] : []));
    const own = cosines(rows, (scene) => scene);
    const slots = CONFUSIONS[template].map(({ slot, of }) => {
      const other = cosines(rows, (scene) => of(scene, random));
      const toldApart = mean(own.map((cosine, i) => Number(cosine > other[i]!)));
      return [slot, { toldApart, own: mean(own), counterpart: mean(other) }] as const;
    });
    return [template, Object.fromEntries(slots)] as const;
  });
  features.dispose();
  return Object.fromEntries(result);
}
