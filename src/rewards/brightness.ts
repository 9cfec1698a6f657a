/** The brightness of an image. Needs no model and no prompt, so it shows within minutes whether a set-up learns. */
import { z } from "zod";
import { tidy } from "../torch/index.js";
import { defineReward } from "./reward.js";

export const brightness = defineReward({
  name: "brightness",
  summary: "The mean of all pixels and channels, 0 to 1; for trying out a set-up",
  cost: "negligible",
  range: "0 to 1",
  source: "this project",
  licence: "MIT, as this project",
  options: z.object({}),
  open: () => ({ score: (images) => tidy(() => images.mean({ dim: [1, 2, 3] }).toArray()) }),
});
