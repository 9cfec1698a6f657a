/** What a judge says of images, as measures of a probe. */
import type { ReadImages } from "../b2/probe/branching.js";
import type { Judges } from "./judges.js";

/**
 * `alignment`: 1 where an image shows all that its prompt describes, else 0; `slots.<name>`: the same for each part of
 * the prompt that the judge tells apart.
 */
export const readAlignment =
  (truth: NonNullable<Judges["truth"]>): ReadImages =>
  async (images, prompts) => {
    const verdicts = await truth(images, prompts);
    return verdicts.map(({ right, slots = {} }) => ({
      alignment: Number(right),
      ...Object.fromEntries(Object.entries(slots).map(([slot, isRight]) => [`slots.${slot}`, Number(isRight)])),
    }));
  };
