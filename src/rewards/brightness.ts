/** How bright an image is: needs no model and no prompt, and shows within minutes whether a set-up learns. */
import { z } from "zod";
import { tidy } from "../torch/index.js";
import { defineReward } from "./reward.js";

export const brightness = defineReward({
  name: "brightness",
  summary: "The mean of all pixels and channels, 0 to 1: to try a set-up",
  cost: "nothing to speak of",
  options: z.object({}),
  open: () => ({ score: (images) => tidy(() => images.mean({ dim: [1, 2, 3] }).toArray()) }),
});
