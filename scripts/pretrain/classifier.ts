/**
 * Step "classifier": it measures true alignment, and is trained on renders, decoded images, and both with some noise.
 */
import { crossEntropy, Generator, randn, tensor, tidy, type Tensor } from "../../src/torch/index.js";
import {
  IMAGE_BYTES,
  Random,
  SceneClassifier,
  SLOT_NAMES,
  SLOTS,
  TEMPLATES,
  toImages,
  type Scene,
  type Slot,
} from "../../src/world/index.js";
import { CLASSIFIER_CONFIG, RECONSTRUCTIONS, TRAINING } from "./recipe.js";
import { sceneAlignment, type SceneAlignment } from "./scene-alignment.js";
import { train } from "./training.js";
import { classifierFolder, drawScenes, mixedBatch, reconstructedPictures, renderScenes, shortened, storeInHalf, writeJson, type Workplace } from "./workplace.js"; // prettier-ignore

/** Not CLIP's seed, so that classifier and reward are trained on different images. */
const SEED_OFFSET = 77;

export async function pretrainClassifier(workplace: Workplace): Promise<void> {
  const { workFolder } = workplace;
  const seed = workplace.seed + SEED_OFFSET;
  const recipe = { ...TRAINING.classifier, steps: shortened(workplace, TRAINING.classifier.steps) };
  const folder = classifierFolder(workplace);
  const classifier = SceneClassifier.fromConfig(CLASSIFIER_CONFIG, { generator: new Generator(seed) });
  const pool = reconstructedPictures(workplace, shortened(workplace, RECONSTRUCTIONS), new Random(seed));
  const figures = await train({
    name: "classifier",
    recipe,
    seed,
    parameters: classifier.parameters(),
    checkpointFile: `${workFolder}/classifier.safetensors`,
    loss: (batch, { random, generator }) => {
      const { images, scenes } = mixedBatch(workplace, pool, batch, random);
      const noise = randn(images.shape, { generator }).mul(random.between(0, 0.06));
      return { loss: slotLoss(classifier.forward(images.add(noise)), scenes) };
    },
  });
  classifier.savePretrained(folder);
  storeInHalf(folder, "model");

  const random = new Random(seed + 1_000_000_007);
  const scenes = drawScenes(shortened(workplace, 4000), random);
  const decoded = reconstructedPictures(workplace, shortened(workplace, 1000), random);
  const measured = {
    cleanRenders: accuracy(classifier, scenes, (_, part) => renderScenes(workplace, part, random)),
    reconstructed: accuracy(classifier, decoded.scenes, (start, part) =>
      toImages(decoded.pictures.subarray(start * IMAGE_BYTES, (start + part.length) * IMAGE_BYTES)),
    ),
  };
  writeJson(`${folder}/metrics.json`, { training: { ...recipe, seed, ...figures }, accuracy: measured });
  console.log(`classifier: share read right ${JSON.stringify(measured, null, 1)}`);
  classifier.dispose();
}

/** Cross-entropy of each slot over the images whose scenes have that slot, weighted by their share. */
function slotLoss(scores: Record<Slot, Tensor>, scenes: readonly Scene[]): Tensor {
  const losses = SLOT_NAMES.flatMap((slot) => {
    const rows: number[] = [];
    const values: number[] = [];
    scenes.forEach((scene, row) => {
      const value = (scene as Partial<Record<Slot, string>>)[slot];
      if (value === undefined) return;
      rows.push(row);
      values.push((SLOTS[slot] as readonly string[]).indexOf(value));
    });
    if (rows.length === 0) return [];
    const chosen = scores[slot].indexSelect(0, tensor(rows, { dtype: "int64" }));
    return [crossEntropy(chosen, tensor(values, { dtype: "int64" })).mul(rows.length / scenes.length)];
  });
  return losses.reduce((sum, loss) => sum.add(loss));
}

/** Per template: the share of images whose scene is read exactly ("scene"), and of those whose slots are. */
function accuracy(
  classifier: SceneClassifier,
  scenes: readonly Scene[],
  imagesOf: (start: number, part: readonly Scene[]) => Tensor,
): Record<string, SceneAlignment> {
  const read: Scene[] = [];
  const size = 500;
  for (let start = 0; start < scenes.length; start += size) {
    const part = scenes.slice(start, start + size);
    tidy(() => void read.push(...classifier.readScenes(imagesOf(start, part))));
  }
  return Object.fromEntries(
    TEMPLATES.flatMap((template) => {
      const rows = scenes.flatMap((scene, i) => (scene.template === template ? [i] : []));
      if (rows.length === 0) return [];
      return [[template, sceneAlignment(rows.map((i) => scenes[i]!), rows.map((i) => read[i]!))]] as const; // prettier-ignore
    }),
  );
}
