/**
 * A skewed choice of scenes: on the web, too, some things are pictured far more often than others. Templates are drawn
 * by their shares; within a template a scene's weight is log-normal, fixed by the scene's place in the grammar.
 */
import { Random, scenesOf, TEMPLATES, type Scene, type Template } from "../../src/world/index.js";
import { drawTemplate } from "./workplace.js";

/** Standard deviation of the logarithm of a scene's weight. */
const SKEW = 0.5;

const choices = Object.fromEntries(
  TEMPLATES.map((template, i) => {
    const random = new Random(1000 + i);
    const scenes = scenesOf(template);
    let sum = 0;
    const upTo = scenes.map(() => (sum += Math.exp(SKEW * normal(random))));
    return [template, { scenes, upTo: upTo.map((value) => value / sum) }];
  }),
) as Record<Template, { scenes: Scene[]; upTo: number[] }>;

/** A scene as the denoiser's training data would hold it. */
export function drawSkewedScene(random: Random): Scene {
  const { scenes, upTo } = choices[drawTemplate(random)];
  const at = random.uniform();
  return scenes[firstAbove(upTo, at)] ?? scenes.at(-1)!;
}

/** The index of the first of these ascending numbers above a value. */
function firstAbove(ascending: readonly number[], value: number): number {
  let [low, high] = [0, ascending.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ascending[middle]! > value) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Box and Muller's standard normal. */
function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());
}
