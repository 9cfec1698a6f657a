/**
 * A skewed choice of scenes: on the web, too, some things are pictured far more often than others. Templates are drawn
 * evenly; within a template a scene's weight is log-normal, fixed by the scene's place in the grammar.
 */
import { Random, scenesOf, TEMPLATES, type Scene } from "../../src/world/index.js";

/** Standard deviation of the logarithm of a scene's weight. */
const SKEW = 0.5;

const choices = TEMPLATES.map((template, i) => {
  const random = new Random(1000 + i);
  const scenes = scenesOf(template);
  let sum = 0;
  const upTo = scenes.map(() => (sum += Math.exp(SKEW * normal(random))));
  return { scenes, upTo: upTo.map((value) => value / sum) };
});

/** A scene as the denoiser's training data would hold it. */
export function drawSkewedScene(random: Random): Scene {
  const { scenes, upTo } = random.pick(choices);
  const at = random.uniform();
  return scenes[upTo.findIndex((value) => at < value)] ?? scenes.at(-1)!;
}

/** Box and Muller's standard normal. */
function normal(random: Random): number {
  return Math.sqrt(-2 * Math.log(1 - random.uniform())) * Math.cos(2 * Math.PI * random.uniform());
}
