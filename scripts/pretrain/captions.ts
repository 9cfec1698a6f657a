/**
 * The captions that the denoiser learns from: partly wrong, like captions on the web, so that the base model is
 * mediocre and reinforcement learning has something to gain.
 *
 * Faults come in pairs: a slot of a scene is named, with the probability given, as its fixed counterpart. Random
 * faults would not work: they are spread over many scenes, the right one stays by far the most frequent, and guidance
 * removes them (measured: 97% true alignment with 30% random faults). With pairs, half of what a caption names is
 * typical of it and wrong. The slots of a combined scene are wrong independently of each other.
 */
import {
  ACTIVITIES,
  captionsOf,
  type Activity,
  type Animal,
  type Colour,
  type Fruit,
  type Random,
  type Scene,
  type Template,
} from "../../src/world/index.js";

/** How often a slot is named as its counterpart, once captions are no longer clean. */
export const WRONG_CAPTIONS: Record<Template, number> = { activity: 0.45, colour: 0.45, relation: 0.45, combined: 0.4 };

/** The first part of training sees clean captions, so that the model soon learns what words mean. */
export const CLEAN_CAPTIONS_UNTIL = 0.5;

/** The colours of a fruit that fills the picture. */
const CONFUSED_COLOURS = pairs<Colour>(["red", "green"], ["orange", "purple"], ["yellow", "blue"], ["pink", "black"]);
/** Of a small fruit: pairs of similar lightness, which the latents hardly tell apart until late in denoising. */
const CONFUSED_SMALL_COLOURS = pairs<Colour>(
  ["red", "green"],
  ["yellow", "pink"],
  ["blue", "black"],
  ["orange", "purple"],
);
const CONFUSED_SMALL_FRUITS = pairs<Fruit>(["apple", "grape"], ["banana", "pear"], ["cherry", "pineapple"]);
const CONFUSED_ANIMALS = pairs<Animal>(
  ["cat", "dog"],
  ["rabbit", "mouse"],
  ["fox", "bear"],
  ["panda", "koala"],
  ["tiger", "lion"],
  ["cow", "pig"],
  ["frog", "monkey"],
  ["chicken", "penguin"],
  ["owl", "horse"],
);

/** A way in which captions get a scene wrong: what it concerns, and the scene that they name instead. */
export interface Confusion {
  /** A slot of the scene; of relations the order of its objects. */
  readonly slot: "activity" | "animal" | "colour" | "fruit" | "order";
  readonly of: (scene: Scene, random: Random) => Scene;
}

/** The ways in which captions get scenes of a template wrong. */
export const CONFUSIONS: Record<Template, readonly Confusion[]> = {
  activity: [confusion("activity", "activity", otherActivity)],
  colour: [confusion("colour", "colour", (scene) => ({ ...scene, colour: partner(CONFUSED_COLOURS, scene.colour) }))],
  relation: [confusion("relation", "order", (scene) => ({ ...scene, first: scene.second, second: scene.first }))],
  combined: [
    confusion("combined", "activity", otherActivity),
    confusion("combined", "animal", (scene) => ({ ...scene, animal: partner(CONFUSED_ANIMALS, scene.animal) })),
    confusion("combined", "fruit", (scene) => ({ ...scene, fruit: partner(CONFUSED_SMALL_FRUITS, scene.fruit) })),
    confusion("combined", "colour", (scene) => ({ ...scene, colour: partner(CONFUSED_SMALL_COLOURS, scene.colour) })),
  ],
};

/** A correct caption of the scene. */
export function cleanCaption(scene: Scene, random: Random): string {
  return random.pick(captionsOf(scene));
}

/** A possibly wrong caption, like those on the web. */
export function webCaption(scene: Scene, random: Random): string {
  let named = scene;
  for (const { of } of CONFUSIONS[scene.template]) {
    if (random.uniform() < WRONG_CAPTIONS[scene.template]) named = of(named, random);
  }
  return cleanCaption(named, random);
}

type SceneOf<T extends Template> = Extract<Scene, { template: T }>;

function confusion<T extends Template>(
  template: T,
  slot: Confusion["slot"],
  exchange: (scene: SceneOf<T>, random: Random) => Scene,
): Confusion {
  return {
    slot,
    of: (scene, random) => {
      if (scene.template !== template) throw new TypeError(`Expected a scene of ${template} but received ${scene.template}`); // prettier-ignore
      return exchange(scene as SceneOf<T>, random);
    },
  };
}

function otherActivity<S extends { activity: Activity }>(scene: S, random: Random): S {
  return { ...scene, activity: random.pick(ACTIVITIES.filter((activity) => activity !== scene.activity)) };
}

function pairs<T extends string>(...list: readonly (readonly [T, T])[]): ReadonlyMap<T, T> {
  return new Map(list.flatMap(([a, b]) => [[a, b] as const, [b, a] as const]));
}

function partner<T extends string>(pairing: ReadonlyMap<T, T>, value: T): T {
  const found = pairing.get(value);
  if (found === undefined)
    throw new RangeError(`Expected one of ${[...pairing.keys()].join(", ")} but received ${value}`);
  return found;
}
