/**
 * Which prompts reinforcement learning may train on, and which combinations are held out of it.
 *
 * As in the paper (section 5.4), every word of a held-out prompt occurs in training prompts, only never in this
 * combination, so that an improvement on held-out prompts is generalisation. Pre-training sees all scenes.
 */
import {
  ACTIVITIES,
  ANIMALS,
  AXES,
  captionsOf,
  COLOURS,
  FRUITS,
  OBJECTS,
  scenesOf,
  type Scene,
  type Template,
} from "./grammar.js";
import { Random } from "./random.js";

/**
 * Whether a scene is held out of the reinforcement learning prompts: 18 of 54 activity, 24 of 96 colour, 78 of 312
 * relation and a quarter of 2,592 combined scenes. Along every row and column of the slots at least one scene is held out and most are not.
 */
export function isHeldOut(scene: Scene): boolean {
  switch (scene.template) {
    case "activity":
      return (ANIMALS.indexOf(scene.animal) + ACTIVITIES.indexOf(scene.activity)) % 3 === 2;
    case "colour":
      return (COLOURS.indexOf(scene.colour) + FRUITS.indexOf(scene.fruit)) % 4 === 3;
    case "relation": {
      const step = (OBJECTS.indexOf(scene.second) - OBJECTS.indexOf(scene.first) + OBJECTS.length) % OBJECTS.length;
      return (step + AXES.indexOf(scene.axis)) % 4 === 3;
    }
    case "combined": {
      const { animal, activity, colour, fruit } = scene;
      const places = [ANIMALS.indexOf(animal), ACTIVITIES.indexOf(activity), COLOURS.indexOf(colour), FRUITS.indexOf(fruit)]; // prettier-ignore
      return places.reduce((sum, place) => sum + place) % 4 === 3;
    }
    default:
      return scene satisfies never;
  }
}

/**
 * The captions of a template's scenes that reinforcement learning may use, both ways round for relations. Those of
 * combined scenes are in a fixed random order, so that some of them, evenly spaced, are a fair sample of all.
 */
export function trainingPrompts(template: Template): string[] {
  return captionsWhere(template, (scene) => !isHeldOut(scene));
}

/** The captions of a template's held-out scenes, ordered in the same way. */
export function heldOutPrompts(template: Template): string[] {
  return captionsWhere(template, isHeldOut);
}

function captionsWhere(template: Template, wanted: (scene: Scene) => boolean): string[] {
  const captions = scenesOf(template).filter(wanted).flatMap(captionsOf);
  return template === "combined" ? new Random(ORDER_SEED).shuffled(captions) : captions;
}

const ORDER_SEED = 1;
