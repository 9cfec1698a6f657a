/**
 * The second reward of the B2-DiffuRL paper, as DDPO's reward server computes it: a vision-language model describes the
 * image, and BERTScore says how much of the prompt is in the description (recall).
 */
import { existsSync } from "node:fs";
import { resolve } from "node:path";
import { z } from "zod";
import { yieldToEventLoop } from "../torch/index.js";
import { layerOf, layerProblem } from "./bert-score-layers.js";
import { bertScoreOf, idfWeights, plainWeights, type BertScore, type TokenWeights } from "./bert-score-of.js";
import type { Captioner } from "./captioner.js";
import { RewardError } from "./error.js";
import { placementOf, placementOptions } from "./placement.js";
import { readPromptTexts } from "./prompt-texts.js";
import { defineReward, type Reward } from "./reward.js";
import { toPngs } from "./servers/images.js";
import { throwIfAborted } from "./servers/reward-server.js";
import { serverProblems } from "./servers/server-options.js";
import { VlmClient, vlmOptions } from "./servers/vlm-client.js";
import { TokenMatcher } from "./token-matcher.js";

/** How captions are compared with prompts. */
export interface BertScoreOptions {
  /** What a caption is compared with; {prompt} stands for the prompt. */
  readonly template: string;
  readonly measure: keyof BertScore;
  /** Default: every token weighs the same. */
  readonly weights?: TokenWeights;
}

/** BERTScore of captions as a reward. The caller still owns matcher and captioner. */
export function bertScore(
  matcher: TokenMatcher,
  captioner: Captioner,
  { template, measure, weights = plainWeights(matcher.specialIds) }: BertScoreOptions,
): Reward {
  return {
    concurrent: true,
    score: async (images, prompts, { signal } = {}) => {
      const captions = await captioner.caption(images, signal);
      if (captions.length !== prompts.length) {
        throw new RewardError(`Expected ${prompts.length} captions, one per image, but received ${captions.length}`);
      }
      const scores: number[] = [];
      for (const [i, prompt] of prompts.entries()) {
        throwIfAborted(signal);
        scores.push(bertScoreOf(matcher.match(captions[i]!, referenceOf(template, prompt)), weights)[measure]);
        await yieldToEventLoop();
      }
      return scores;
    },
  };
}

const PLACE = "{prompt}";

/** The prompt may contain anything, also what String.replace would take for a pattern. */
const referenceOf = (template: string, prompt: string): string => template.split(PLACE).join(prompt);

/** The name `model` is the text encoder's. */
const { model: captionModel, ...ofServer } = vlmOptions;

export const bertScoreKind = defineReward({
  name: "bert-score",
  summary: "BERTScore: how much of the prompt is in a vision-language model's description of the image",
  cost: "one question to the server per image, and one pass of the text encoder per description and prompt",
  range: "at most 1; unrelated texts have about 0.5 with deberta-xlarge-mnli, 0.83 with roberta-large",
  source:
    "Zhang et al. 2020, arXiv 1904.09675; numbers of the bert-score package with `use_fast_tokenizer=True`, without rescaling. As a reward: B2-DiffuRL, with the server of ddpo-pytorch",
  licence: "DeBERTa and RoBERTa: MIT; that of the vision-language model is its own",
  options: z.object({
    model: z
      .string()
      .min(1)
      .default("microsoft/deberta-xlarge-mnli")
      .describe(
        "RoBERTa or DeBERTa (version 1): a folder in transformers' layout with tokenizer.json, or a name on the hub. The default agrees best with people; FacebookAI/roberta-large is half as large. For a model that is published as a pickle, or without tokenizer.json, the error says how to convert it.",
      ),
    layer: z
      .int()
      .min(0)
      .nullable()
      .default(null)
      .describe(
        "The layer whose states are compared; null is the one that the bert-score package takes for the model, by its name: 40 for deberta-xlarge-mnli, 17 for roberta-large.",
      ),
    measure: z
      .enum(["precision", "recall", "f1"])
      .default("recall")
      .describe(
        "recall: how much of the prompt is in the description; precision: how much of the description is in the prompt; f1: their harmonic mean.",
      ),
    idf: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .describe(
        "A file of prompts, relative to the working folder: words that few of them have weigh more, by their inverse document frequency over the file's prompts in `template`. A JSON list, JSON Lines with `prompt`, or text with one prompt per line. null weighs all words the same.",
      ),
    question: z
      .string()
      .min(1)
      .default("Answer concisely: what is going on in this image?")
      .describe("What the vision-language model is asked about each image."),
    template: z
      .string()
      .refine((text) => text.includes(PLACE), `Expected a text with ${PLACE}`)
      .default(`The image contains ${PLACE}`)
      .describe(`What descriptions are compared with; ${PLACE} stands for the prompt.`),
    ...placementOptions,
    ...ofServer,
    captionModel: captionModel.describe("Name of the vision-language model, as the server calls it."),
  }),
  models: ({ model }) => [model],
  problems: (options) => {
    const { idf } = options;
    const noLayer = layerProblem(options);
    const hasFile = idf === null || existsSync(resolve(idf));
    return [
      ...(noLayer === undefined ? [] : [noLayer]),
      ...(hasFile ? [] : [`Expected a file of prompts for the option idf but received ${idf}, which does not exist`]),
      ...serverProblems(options),
    ];
  },
  open: (options, context) => {
    const { model, measure, idf, template } = options;
    const layer = layerOf(options);
    const prompts = idf === null ? undefined : readPromptTexts(resolve(idf));
    const matcher = context.shared(`bert-score, layer ${layer}`, model, placementOf(options), (folder, how) =>
      TokenMatcher.fromPretrained(folder, { ...how, layer }),
    );
    const weights =
      prompts === undefined
        ? plainWeights(matcher.specialIds)
        : idfWeights(prompts.map((prompt) => matcher.ids(referenceOf(template, prompt))));
    const client = new VlmClient({ ...options, model: options.captionModel });
    const captioner: Captioner = {
      caption: async (images, signal) => client.caption(await toPngs(images), options.question, signal),
    };
    return { ...bertScore(matcher, captioner, { template, measure, weights }), dispose: () => client.dispose() };
  },
});
