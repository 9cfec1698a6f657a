/**
 * The embedded world's grammar: which scenes there are, the captions that name them, and back.
 *
 * Three templates are those of the B2-DiffuRL paper (arXiv 2503.11240, section 5), the fourth puts two of them into one
 * picture, so that some of its slots are decided early in denoising and some late:
 *   activity   "a {animal} {activity}"                             18 x 3 scenes
 *   colour     "{colour} {fruit}"                                   8 x 12 scenes
 *   relation   "{object} {relation} {object}"                       312 scenes, each with two captions
 *   combined   "a {animal} {activity} with a {colour} {fruit}"      18 x 3 x 8 x 6 scenes
 *
 * A relation's scene is kept in one normal form (an axis, and what is left or on top), because two captions
 * can name one image: "dog on house" is "house under dog". Alignment always compares scenes, never text.
 */

export const ANIMALS = [
  "cat",
  "dog",
  "rabbit",
  "mouse",
  "fox",
  "bear",
  "panda",
  "koala",
  "tiger",
  "lion",
  "cow",
  "pig",
  "frog",
  "monkey",
  "chicken",
  "penguin",
  "owl",
  "horse",
] as const;
export const ACTIVITIES = ["riding a bike", "playing chess", "washing dishes"] as const;
export const COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "black"] as const;
export const FRUITS = [
  "apple",
  "banana",
  "strawberry",
  "grape",
  "pear",
  "cherry",
  "pineapple",
  "watermelon",
  "lemon",
  "peach",
  "kiwi",
  "avocado",
] as const;
/** The fruits of combined scenes: those that can be told apart at 16 pixels. */
export const SMALL_FRUITS = ["apple", "banana", "grape", "pear", "cherry", "pineapple"] as const satisfies Fruit[];
export const OBJECTS = [
  "dog",
  "cat",
  "house",
  "car",
  "tree",
  "ball",
  "star",
  "guitar",
  "umbrella",
  "mushroom",
  "book",
  "rocket",
  "chair",
] as const;
export const RELATIONS = ["on the left of", "on the right of", "under", "on"] as const;
export const AXES = ["horizontal", "vertical"] as const;
export const TEMPLATES = ["activity", "colour", "relation", "combined"] as const;

export type Animal = (typeof ANIMALS)[number];
export type Activity = (typeof ACTIVITIES)[number];
export type Colour = (typeof COLOURS)[number];
export type Fruit = (typeof FRUITS)[number];
export type WorldObject = (typeof OBJECTS)[number];
export type Relation = (typeof RELATIONS)[number];
export type Axis = (typeof AXES)[number];
export type Template = (typeof TEMPLATES)[number];

export interface ActivityScene {
  template: "activity";
  animal: Animal;
  activity: Activity;
}
export interface ColourScene {
  template: "colour";
  colour: Colour;
  fruit: Fruit;
}
/** `first` is the left object of a horizontal scene, the upper one of a vertical scene. */
export interface RelationScene {
  template: "relation";
  axis: Axis;
  first: WorldObject;
  second: WorldObject;
}
/** An activity with a small fruit in a corner. */
export interface CombinedScene {
  template: "combined";
  animal: Animal;
  activity: Activity;
  colour: Colour;
  fruit: Fruit;
}
export type Scene = ActivityScene | ColourScene | RelationScene | CombinedScene;

/** Every scene of a template, in a fixed order. */
export function scenesOf(template: Template): Scene[] {
  switch (template) {
    case "activity":
      return ANIMALS.flatMap((animal) => ACTIVITIES.map((activity) => ({ template, animal, activity })));
    case "colour":
      return COLOURS.flatMap((colour) => FRUITS.map((fruit) => ({ template, colour, fruit })));
    case "relation":
      return AXES.flatMap((axis) =>
        OBJECTS.flatMap((first) =>
          OBJECTS.filter((second) => second !== first).map((second) => ({ template, axis, first, second })),
        ),
      );
    case "combined":
      return ANIMALS.flatMap((animal) =>
        ACTIVITIES.flatMap((activity) =>
          COLOURS.flatMap((colour) => SMALL_FRUITS.map((fruit) => ({ template, animal, activity, colour, fruit }))),
        ),
      );
    default:
      return template satisfies never;
  }
}

/** A text that is equal for two scenes exactly when the scenes are: a key for maps and sets. */
export function sceneKey(scene: Scene): string {
  switch (scene.template) {
    case "activity":
      return `activity/${scene.animal}/${scene.activity}`;
    case "colour":
      return `colour/${scene.colour}/${scene.fruit}`;
    case "relation":
      return `relation/${scene.axis}/${scene.first}/${scene.second}`;
    case "combined":
      return `combined/${scene.animal}/${scene.activity}/${scene.colour}/${scene.fruit}`;
    default:
      return scene satisfies never;
  }
}

export function sameScene(a: Scene, b: Scene): boolean {
  return sceneKey(a) === sceneKey(b);
}

/** All captions that name a scene: one, or for a relation the two ways round. */
export function captionsOf(scene: Scene): string[] {
  switch (scene.template) {
    case "activity":
      return [`a ${scene.animal} ${scene.activity}`];
    case "colour":
      return [`${scene.colour} ${scene.fruit}`];
    case "relation": {
      const [forward, backward] = scene.axis === "horizontal" ? ["on the left of", "on the right of"] : ["on", "under"];
      return [`${scene.first} ${forward} ${scene.second}`, `${scene.second} ${backward} ${scene.first}`];
    }
    case "combined": {
      const article = /^[aeiou]/.test(scene.colour) ? "an" : "a";
      return [`a ${scene.animal} ${scene.activity} with ${article} ${scene.colour} ${scene.fruit}`];
    }
    default:
      return scene satisfies never;
  }
}

const sceneByCaption = new Map<string, Scene>(
  TEMPLATES.flatMap(scenesOf).flatMap((scene) => captionsOf(scene).map((caption) => [caption, scene] as const)),
);

/** The scene a caption names, or undefined where the text is no caption of this world (case and spaces are forgiven). */
export function parseCaption(caption: string): Scene | undefined {
  return sceneByCaption.get(caption.trim().toLowerCase().replace(/\s+/g, " "));
}

/** Every word of the captions, sorted: what the tokenizer of the embedded model has to know. */
export function vocabulary(): string[] {
  return [...new Set([...sceneByCaption.keys()].flatMap((caption) => caption.split(" ")))].sort();
}
