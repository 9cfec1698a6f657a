/**
 * A vision-language model as judge: a question of yes or no about image and prompt, or a number. With log-probs, a
 * question of yes or no is VQAScore (Lin et al. 2024, arXiv 2404.01291).
 */
import { z } from "zod";
import { RewardError } from "./error.js";
import { defineReward } from "./reward.js";
import { toPngs } from "./servers/images.js";
import { serverProblems } from "./servers/server-options.js";
import { subjectsOf } from "./servers/subjects.js";
import { VlmClient, vlmOptions } from "./servers/vlm-client.js";

/** VQAScore's question, and one for a number with what flow_grpo's asks a judge to look at. */
const QUESTIONS = {
  "yes-no": 'Does this figure show "{prompt}"? Please answer yes or no.',
  number:
    'The image was made for the text "{prompt}". Rate how well it shows what the text says (objects, numbers, colours, ' +
    "relations), and how good it looks, with a number from {min} (not at all) to {max} (perfectly). Answer with the " +
    'number alone, as {"score": number}.',
};

const options = z.object({
  ...vlmOptions,
  ask: z
    .enum(["yes-no", "number"])
    .default("yes-no")
    .describe(
      "What the model answers with. `yes-no`: the reward is the probability of yes against no where the server gives log-probs, otherwise 1 or 0. `number`: the reward is the number, scaled from `min`..`max` to 0..1.",
    ),
  question: z
    .string()
    .min(1)
    .nullable()
    .default(null)
    .describe(
      "The question, in which `{prompt}`, `{min}` and `{max}` are replaced; null is VQAScore's question for `yes-no`, and for `number` one about prompt and looks.",
    ),
  min: z.number().default(0).describe("The worst number."),
  max: z.number().default(10).describe("The best number."),
  logprobs: z
    .boolean()
    .nullable()
    .default(null)
    .describe(
      "Log-probs for `yes-no`. true: an answer without them is a miss. false: they are not used, and rewards are 0 or 1. null: they are used where they are given.",
    ),
  onMiss: z
    .number()
    .nullable()
    .default(null)
    .describe(
      "The reward of an image about which the model says neither yes nor no, or no number from `min` to `max`, in all attempts; null stops the run.",
    ),
});

type Options = z.output<typeof options>;

const problemsOf = (own: Options): string[] => [
  ...serverProblems(own),
  ...(own.min < own.max ? [] : [`Expected max above min (${own.min}) for the reward vlm but received ${own.max}`]),
];

export const vlm = defineReward({
  name: "vlm",
  summary: "A vision-language model's yes, no or number about image and prompt, by any OpenAI-compatible server",
  cost: "one answer of the model per image, on the server",
  range: "0 to 1",
  source: "with log-probs VQAScore: Lin et al. 2024, arXiv 2404.01291",
  licence: "that of the model and of who serves it",
  options,
  problems: problemsOf,
  open: (own) => {
    const [problem] = problemsOf(own);
    if (problem !== undefined) throw new RewardError(problem);
    const client = new VlmClient(own);
    return {
      concurrent: true,
      score: async (images, prompts, { keys, signal } = {}) => {
        const pngs = await toPngs(images);
        const questions = prompts.map((prompt) => questionOf(own, prompt));
        const subjects = subjectsOf(prompts, keys);
        return own.ask === "number"
          ? client.number(pngs, questions, subjects, own, signal)
          : client.yesNo(pngs, questions, subjects, own, signal);
      },
      dispose: () => client.dispose(),
    };
  },
});

/** The question with everything in its place. */
function questionOf({ ask, question, min, max }: Options, prompt: string): string {
  const values = new Map([
    ["{prompt}", prompt],
    ["{min}", `${min}`],
    ["{max}", `${max}`],
  ]);
  return (question ?? QUESTIONS[ask]).replaceAll(/\{(?:prompt|min|max)\}/g, (name) => values.get(name)!);
}
