/**
 * Reads the scene off an image: the judge of true alignment in the embedded world.
 *
 * It is kept apart from the reward on purpose. The reward is a CLIP, and a policy can learn to please it in ways that
 * no person would call alignment; this network has another architecture, was trained on other targets (the slots of
 * scenes instead of captions) and never takes part in training. What it reads is compared as scenes, so that
 * "dog on house" and "house under dog" are the same answer.
 *
 * One convolutional trunk, and one linear layer whose outputs are divided among the slots of the grammar.
 */
import { z } from "zod";
import { show, showShape } from "../base/show.js";
import { parseConfig, PretrainedModel, refuse, whole, type ModelLayout } from "../models/index.js";
import { Conv2d, GroupNorm, Linear, Module, type Weights } from "../nn/index.js";
import { noGrad, silu, tidy, type Tensor } from "../torch/index.js";
import { ACTIVITIES, ANIMALS, AXES, COLOURS, FRUITS, OBJECTS, parseCaption, TEMPLATES, type Scene } from "./grammar.js";
import { IMAGE_SIZE } from "./image-format.js";

/** What each group of outputs tells, in the order of the outputs. */
export const SLOTS = {
  template: TEMPLATES,
  animal: ANIMALS,
  activity: ACTIVITIES,
  colour: COLOURS,
  fruit: FRUITS,
  axis: AXES,
  first: OBJECTS,
  second: OBJECTS,
} as const;

export type Slot = keyof typeof SLOTS;
/** Which slots of a prompt's scene an image shows; slots that the scene does not have are left out. */
export type SlotAlignment = Readonly<Partial<Record<Slot, boolean>>>;
export const SLOT_NAMES = Object.keys(SLOTS) as Slot[];
const OUTPUTS = SLOT_NAMES.reduce((sum, slot) => sum + SLOTS[slot].length, 0);

const schema = z.strictObject({
  architectures: z.array(z.string()).optional(),
  /** Channels after each halving of the image. */
  channels: z.array(whole).min(1).max(5),
  norm_num_groups: whole,
  hidden_size: whole,
  image_size: z.literal(IMAGE_SIZE),
});
export type SceneClassifierConfig = z.output<typeof schema>;

function parseClassifierConfig(config: object, source: string): SceneClassifierConfig {
  const parsed = parseConfig(schema, config, source);
  const { channels, norm_num_groups: groups } = parsed;
  if (channels.some((count) => count % groups !== 0)) {
    refuse(source, [`Expected multiples of norm_num_groups, ${groups}, for channels but received ${show(channels)}`]);
  }
  return parsed;
}

/** Halves the image, then looks once more at the same size. */
class Stage extends Module {
  readonly #halve: Conv2d;
  readonly #norm1: GroupNorm;
  readonly #look: Conv2d;
  readonly #norm2: GroupNorm;

  constructor(weights: Weights, inChannels: number, channels: number, groups: number) {
    super(weights);
    this.#halve = new Conv2d(weights.at("halve"), inChannels, channels, { stride: 2 });
    this.#norm1 = new GroupNorm(weights.at("norm1"), groups, channels);
    this.#look = new Conv2d(weights.at("look"), channels, channels);
    this.#norm2 = new GroupNorm(weights.at("norm2"), groups, channels);
  }

  /** [B, inChannels, H, W] -> [B, channels, H/2, W/2] */
  forward(x: Tensor): Tensor {
    const halved = silu(this.#norm1.forward(this.#halve.forward(x)));
    return silu(this.#norm2.forward(this.#look.forward(halved))).add(halved);
  }
}

export class SceneClassifier extends PretrainedModel<SceneClassifierConfig> {
  static readonly layout: ModelLayout<SceneClassifierConfig> = {
    className: "SceneClassifier",
    stem: "model",
    parseConfig: parseClassifierConfig,
  };

  readonly #stages: readonly Stage[];
  readonly #hidden: Linear;
  readonly #slots: Linear;

  constructor(config: SceneClassifierConfig, weights: Weights) {
    super(config, weights);
    const { channels, norm_num_groups: groups, hidden_size: hidden } = config;
    this.#stages = channels.map(
      (count, i) => new Stage(weights.at(`stages.${i}`), channels[i - 1] ?? 3, count, groups),
    );
    // Places matter (left, right, above, below), so the last grid is kept whole rather than averaged.
    const side = IMAGE_SIZE / 2 ** channels.length;
    this.#hidden = new Linear(weights.at("hidden"), channels.at(-1)! * side * side, hidden);
    this.#slots = new Linear(weights.at("slots"), hidden, OUTPUTS);
  }

  /**
   * @param images [B, 3, 64, 64] in 0..1
   * @returns scores per slot, [B, values of the slot] each
   */
  forward(images: Tensor): Record<Slot, Tensor> {
    const [count = 0, planes, height, width] = images.shape;
    if (images.ndim !== 4 || planes !== 3 || height !== IMAGE_SIZE || width !== IMAGE_SIZE) {
      const expected = showShape(["B", 3, IMAGE_SIZE, IMAGE_SIZE]);
      throw new RangeError(`Expected ${expected} for images but received ${showShape(images.shape)}`);
    }
    let x = images.mul(2).sub(1).contiguous({ memoryFormat: "channelsLast" });
    for (const stage of this.#stages) x = stage.forward(x);
    const scores = this.#slots.forward(silu(this.#hidden.forward(x.contiguous().reshape([count, -1]))));
    let offset = 0;
    return Object.fromEntries(
      SLOT_NAMES.map((slot) => {
        const from = offset;
        offset += SLOTS[slot].length;
        return [slot, scores.slice(1, from, offset)];
      }),
    ) as Record<Slot, Tensor>;
  }

  /** The scene that each of the images shows. @param images [B, 3, 64, 64] in 0..1 */
  readScenes(images: Tensor): Scene[] {
    const answers = noGrad(() =>
      tidy(() => {
        const scores = this.forward(images);
        return new Map(SLOT_NAMES.map((slot) => [slot, scores[slot].argmax({ dim: 1 }).toArray()]));
      }),
    );
    return Array.from({ length: images.size(0) }, (_, row) => {
      const value = <S extends Slot>(slot: S) => SLOTS[slot][answers.get(slot)![row]!]! as (typeof SLOTS)[S][number];
      const template = value("template");
      switch (template) {
        case "activity":
          return { template, animal: value("animal"), activity: value("activity") };
        case "colour":
          return { template, colour: value("colour"), fruit: value("fruit") };
        case "relation":
          return { template, axis: value("axis"), first: value("first"), second: value("second") };
        case "combined":
          return { template, animal: value("animal"), activity: value("activity"), colour: value("colour"), fruit: value("fruit") }; // prettier-ignore
        default:
          return template satisfies never;
      }
    });
  }

  /**
   * Whether each image shows what its prompt names: all slots are right.
   *
   * @param images [B, 3, 64, 64] in 0..1
   * @throws RangeError where a prompt is no caption of the embedded world, or the counts differ
   */
  trueAlignment(images: Tensor, prompts: readonly string[]): boolean[] {
    return this.slotAlignment(images, prompts).map((slots) => Object.values(slots).every(Boolean));
  }

  /**
   * Which slots of its prompt each image shows. Slots are compared within the scene that is read: an image of a red
   * apple has no animal, so the animal of its prompt is wrong.
   *
   * @param images [B, 3, 64, 64] in 0..1
   * @throws RangeError where a prompt is no caption of the embedded world, or the counts differ
   */
  slotAlignment(images: Tensor, prompts: readonly string[]): SlotAlignment[] {
    if (images.size(0) !== prompts.length) {
      throw new RangeError(`Expected one prompt per image, ${images.size(0)}, but received ${prompts.length}`);
    }
    const wanted = prompts.map((prompt) => {
      const scene = parseCaption(prompt);
      if (!scene) throw new RangeError(`Expected a caption of the embedded world for prompt but received "${prompt}"`);
      return scene;
    });
    return this.readScenes(images).map((scene, i) => sameSlots(scene, wanted[i]!));
  }
}

/** Slot by slot, whether a scene has the value that another one has. */
function sameSlots(scene: Scene, wanted: Scene): SlotAlignment {
  const read: Readonly<Record<string, string>> = { ...scene };
  return Object.fromEntries(Object.entries<string>({ ...wanted }).map(([slot, value]) => [slot, read[slot] === value]));
}
