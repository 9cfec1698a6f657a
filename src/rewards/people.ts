/**
 * People as a reward: a person chooses the best and the worst image of each group on the page of `b2 annotate`. After D3PO
 * (Yang et al. 2023, arXiv 2311.13231), which learns from people's comparisons of images without a reward model.
 */
import { z } from "zod";
import { RewardError } from "./error.js";
import { defineReward } from "./reward.js";

export const people = defineReward({
  name: "people",
  summary: "What a person says, who looks at the images on the page of `b2 annotate`",
  cost: "a person's time: one or two key presses for each group of images, or one for each image that is rated",
  range: "best-worst: 1, 0 or -1, with a mean of 0 in each group; rating: 1 to 5",
  source: "after D3PO (arXiv 2311.13231), which compares images of one prompt",
  licence: "none; the judgements are yours",
  options: z.object({
    scale: z
      .enum(["best-worst", "rating"])
      .default("best-worst")
      .describe(
        "What a person does with the branches of a root, or in an evaluation with the images of a prompt: chooses the best and the worst, or rates each 1 to 5. In an evaluation only ratings tell one model from another.",
      ),
    folder: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .describe("Where questions and answers lie, in `annotations`; null is the run folder.")
      .meta({ affects: "nothing" }),
  }),
  open: async ({ scale, folder }, { runFolder }) => {
    const asked = folder ?? runFolder;
    if (asked === undefined) {
      throw new RewardError(
        "Expected a folder for the reward people outside of a run but received none: set its folder",
      );
    }
    const { People } = await import("./ask-people.js");
    return new People(asked, scale);
  },
});
