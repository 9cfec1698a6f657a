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

/**
 * Whether a scene is held out of the reinforcement learning prompts: 18 of 54 activity, 24 of 96 colour and 78 of 312
 * relation scenes. Along every row and column of the slots at least one scene is held out and most are not.
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
    default:
      return scene satisfies never;
  }
}

/** The captions of a template's scenes that reinforcement learning may use, both ways round for relations. */
export function trainingPrompts(template: Template): string[] {
  return scenesOf(template)
    .filter((scene) => !isHeldOut(scene))
    .flatMap(captionsOf);
}

/** The captions of a template's held-out scenes. */
export function heldOutPrompts(template: Template): string[] {
  return scenesOf(template).filter(isHeldOut).flatMap(captionsOf);
}
