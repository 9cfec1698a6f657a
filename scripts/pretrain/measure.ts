/**
 * Measures the results, a step for each of the two models. Generates images for prompts of each template with the demo's
 * settings, and counts how many show what their prompt names, whole and slot by slot, according to the classifier.
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { imageGrid } from "../../src/images/index.js";
import { StableDiffusion3Pipeline, StableDiffusionPipeline } from "../../src/pipeline/index.js";
import { cat, Generator, inference, randn, yieldToEventLoop, type Tensor } from "../../src/torch/index.js";
import {
  captionsOf,
  heldOutPrompts,
  isHeldOut,
  parseCaption,
  Random,
  SceneClassifier,
  scenesOf,
  TEMPLATES,
  trainingPrompts,
} from "../../src/world/index.js";
import { startProgress } from "./progress.js";
import { sceneAlignment, type SceneAlignment } from "./scene-alignment.js";
import {
  classifierFolder,
  flowFolder,
  pipelineFolder,
  renderScenes,
  shortened,
  writeJson,
  type Workplace,
} from "./workplace.js";

const STEPS = 10;
const ETA = 1;
const FLOW_ETA = 0.7;
const GUIDANCE_SCALES = [1, 5];
const IMAGES_PER_TEMPLATE = 384;
const CHUNK = 96;

/**
 * Generates an image for each prompt.
 *
 * @returns [prompts, 3, 64, 64] in 0..1
 */
export async function drawPrompts(
  pipeline: StableDiffusion3Pipeline | StableDiffusionPipeline,
  prompts: readonly string[],
  {
    guidanceScale,
    generator,
    onDone,
  }: { guidanceScale: number; generator: Generator; onDone?: (count: number) => void },
): Promise<Tensor> {
  const { scheduler } = pipeline;
  const images: Tensor[] = [];
  for (let start = 0; start < prompts.length; start += CHUNK) {
    const chunk = prompts.slice(start, start + CHUNK);
    const [embeds, negative] = [chunk, chunk.map(() => "")].map((texts) => pipeline.encodePrompts(texts));
    const conditioning = pipeline.prepare(embeds!, { guidanceScale, negative });
    for (const states of [embeds!, negative!]) states.dispose();
    const shape = [chunk.length, ...pipeline.latentShape({})];
    let sample = randn(shape, { generator });
    for (const timestep of scheduler.timesteps(STEPS)) {
      const before = sample;
      sample = inference(() => {
        const modelOutput = pipeline.predict(before, timestep, conditioning);
        const noise = randn(shape, { generator });
        return scheduler.step({ modelOutput, timestep, sample: before, numInferenceSteps: STEPS, noise }).prevSample;
      });
      before.dispose();
      await yieldToEventLoop();
    }
    conditioning.dispose();
    images.push(inference(() => pipeline.decode(sample)));
    sample.dispose();
    onDone?.(start + chunk.length);
  }
  const all = cat(images);
  for (const image of images) image.dispose();
  return all;
}

/** Of the UNet, drawn as the demo draws. */
export async function measure(workplace: Workplace): Promise<void> {
  const folder = pipelineFolder(workplace);
  const pipeline = StableDiffusionPipeline.fromPretrained(folder, { scheduler: { name: "ddim", eta: ETA } });
  await measureAlignment(workplace, pipeline, { folder, eta: ETA });
  await contactSheets(workplace, pipeline);
}

/** Of the flow model, drawn with the noise that its family has by default. */
export async function measureFlow(workplace: Workplace): Promise<void> {
  const folder = flowFolder(workplace);
  const pipeline = StableDiffusion3Pipeline.fromPretrained(folder, {
    scheduler: { name: "flow-match", eta: FLOW_ETA },
  });
  await measureAlignment(workplace, pipeline, { folder, eta: FLOW_ETA });
}

async function measureAlignment(
  workplace: Workplace,
  pipeline: StableDiffusion3Pipeline | StableDiffusionPipeline,
  { folder, eta }: { folder: string; eta: number },
): Promise<void> {
  const classifier = SceneClassifier.fromPretrained(classifierFolder(workplace));
  const each = shortened(workplace, IMAGES_PER_TEMPLATE);
  const total = GUIDANCE_SCALES.length * TEMPLATES.length * 2 * each;
  const progress = startProgress("measure", total);
  let done = 0;
  const alignment: Record<string, Record<string, Record<string, SceneAlignment>>> = {};
  for (const guidanceScale of GUIDANCE_SCALES) {
    const of = (alignment[`guidance ${guidanceScale}`] = {} as Record<string, Record<string, SceneAlignment>>);
    for (const template of TEMPLATES) {
      const sets = { training: trainingPrompts(template), heldOut: heldOutPrompts(template) };
      for (const [set, prompts] of Object.entries(sets)) {
        // The same count for each set: prompts in turn, in a shuffled order.
        const order = new Random(workplace.seed).shuffled(prompts);
        const chosen = Array.from({ length: each }, (_, i) => order[i % order.length]!);
        const generator = new Generator(workplace.seed);
        const onDone = (count: number) => progress.update(done + count, `${template}, guidance ${guidanceScale}`);
        const images = await drawPrompts(pipeline, chosen, { guidanceScale, generator, onDone });
        (of[template] ??= {})[set] = sceneAlignment(
          chosen.map((prompt) => parseCaption(prompt)!),
          classifier.readScenes(images),
        );
        images.dispose();
        done += chosen.length;
      }
    }
  }
  progress.stop();
  writeJson(join(folder, "metrics.json"), {
    what: "share of pictures that show what their prompt names, as models/emoji-classifier reads them",
    sampler: { steps: STEPS, eta, imagesPerCell: each, seed: workplace.seed },
    alignment,
  });
  console.log(JSON.stringify(alignment, null, 2));
}

/** A sheet of clean renders and one of the base model's images for the same prompts. */
async function contactSheets(workplace: Workplace, pipeline: StableDiffusionPipeline): Promise<void> {
  const random = new Random(workplace.seed);
  const scenes = TEMPLATES.flatMap((template) =>
    random.shuffled(scenesOf(template).filter((scene) => !isHeldOut(scene))).slice(0, 16),
  );
  const prompts = scenes.map((scene) => captionsOf(scene)[0]!);
  const generator = new Generator(workplace.seed);
  const renders = renderScenes(workplace, scenes, random);
  const samples = await drawPrompts(pipeline, prompts, { guidanceScale: 1, generator });
  writeFileSync(`${workplace.workFolder}/renders.png`, imageGrid(renders, { columns: 16 }));
  writeFileSync(`${workplace.workFolder}/samples.png`, imageGrid(samples, { columns: 16 }));
}
