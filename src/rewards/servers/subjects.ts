/** How errors name an image: by its key where there is one, else by its place in the batch, and by its prompt. */
import { show } from "../../base/show.js";
import type { ImageKey } from "../reward.js";

/** @returns for each image: `image 3, "a cat"`, or `image 3 of stage-0003/root-0012, "a cat"` */
export const subjectsOf = (prompts: readonly string[], keys?: readonly ImageKey[]): string[] =>
  prompts.map((prompt, i) => {
    const key = keys?.[i];
    return `image ${key === undefined ? i : `${key.index} of ${key.group}`}, ${show(prompt)}`;
  });
