/**
 * The captions that the denoiser learns from: partly wrong, like captions on the web, so that the base model is
 * mediocre and reinforcement learning has something to gain.
 *
 * Faults come in pairs: a scene's caption names, with the probability given, the scene's fixed counterpart. Random
 * faults would not work: they are spread over many scenes, the right one stays by far the most frequent, and guidance
 * removes them (measured: 97% true alignment with 30% random faults). With pairs, half of what a caption names is
 * typical of it and wrong.
 */
import {
  ACTIVITIES,
  captionsOf,
  type Activity,
  type Colour,
  type Random,
  type Scene,
  type Template,
} from "../../src/world/index.js";

/** Share of a template's images that get their counterpart's caption, once captions are no longer clean. */
export const WRONG_CAPTIONS: Record<Template, number> = { activity: 0.45, colour: 0.45, relation: 0.45 };

/** The first part of training sees clean captions, so that the model soon learns what words mean. */
export const CLEAN_CAPTIONS_UNTIL = 0.5;

const CONFUSED_COLOURS: Record<Colour, Colour> = {
  red: "green",
  green: "red",
  orange: "purple",
  purple: "orange",
  yellow: "blue",
  blue: "yellow",
  pink: "black",
  black: "pink",
};

/** The scene that another scene is confused with. */
export function counterpart(scene: Scene, random: Random): Scene {
  switch (scene.template) {
    case "activity": {
      const others = ACTIVITIES.filter((activity): activity is Activity => activity !== scene.activity);
      return { ...scene, activity: random.pick(others) };
    }
    case "colour":
      return { ...scene, colour: CONFUSED_COLOURS[scene.colour] };
    case "relation":
      return { ...scene, first: scene.second, second: scene.first };
    default:
      return scene satisfies never;
  }
}

/** A correct caption of the scene. */
export function cleanCaption(scene: Scene, random: Random): string {
  return random.pick(captionsOf(scene));
}

/** A possibly wrong caption, like those on the web. */
export function webCaption(scene: Scene, random: Random): string {
  const wrong = random.uniform() < WRONG_CAPTIONS[scene.template];
  return cleanCaption(wrong ? counterpart(scene, random) : scene, random);
}
