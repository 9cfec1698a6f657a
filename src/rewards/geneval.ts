/**
 * GenEval (Ghosh et al. 2023, arXiv 2310.11513): whether a detector finds the objects of a prompt, in the right number,
 * colour and position. A server computes it: yifan123/reward-server's app_geneval, whose protocol this speaks.
 *
 * What a prompt asks for comes with it, from a file of prompts in JSON Lines:
 * `{"prompt": "two red cups", "tag": "color_attr", "include": [{"class": "cup", "count": 2, "color": "red"}]}`.
 */
import { z } from "zod";
import { isJsonObject, type JsonObject } from "../base/files.js";
import { listOf, show } from "../base/show.js";
import { problemOf, RewardError } from "./error.js";
import { defineReward, type PromptMetadata } from "./reward.js";
import { batchedReward } from "./servers/batched-reward.js";
import { toJpegs } from "./servers/images.js";
import { numbersIn } from "./servers/json-answer.js";
import { postPickle } from "./servers/pickle-server.js";
import type { Picklable } from "./servers/pickle.js";
import { batchSizeOption, qualityOption, serverOptions, serverProblems } from "./servers/server-options.js";

/** The list of the answer by the option. */
const PARTS = { score: "scores", correct: "rewards", strict: "strict_rewards" } as const;

/** The kinds of prompts that the server knows. */
const TAGS = ["single_object", "two_object", "counting", "colors", "position", "color_attr"];

const options = z.object({
  ...serverOptions("http://127.0.0.1:18085"),
  part: z
    .enum(["score", "correct", "strict"])
    .default("score")
    .describe(
      "Which answer is the reward. `score`: the mean over what is asked for, with partial credit for a wrong number of objects. `strict`: 1 if all of it is there and no object too many, else 0. `correct`: as GenEval itself has it, where more objects than asked for are right.",
    ),
  onlyStrict: z
    .boolean()
    .default(true)
    .describe("Whether the server leaves out what `correct` needs, which takes it half the time."),
  batchSize: batchSizeOption(64),
  quality: qualityOption(75),
});

type Options = z.output<typeof options>;

const problemsOf = (own: Options): string[] => [
  ...serverProblems(own),
  ...(own.part === "correct" && own.onlyStrict
    ? ["Expected onlyStrict false for geneval's part correct but received true, with which the server answers 0 always"]
    : []),
];

export const geneval = defineReward({
  name: "geneval",
  summary: "GenEval: whether the objects of the prompt are there, by a server of flow_grpo's kind",
  cost: "one pass of an object detector on the server, and of CLIP for colours",
  range:
    "`score`: at most 1, and below 0 where there are more than twice as many objects as asked for; the others: 0 or 1",
  source: "Ghosh et al. 2023, arXiv 2310.11513; the server is yifan123/reward-server's app_geneval",
  licence: "that of the server and its weights (Mask2Former, CLIP)",
  options,
  problems: problemsOf,
  promptProblem: (_, prompt, metadata) => problemOf(() => wanted(prompt, metadata)),
  open: (own) => {
    const [problem] = problemsOf(own);
    if (problem !== undefined) throw new RewardError(problem);
    const list = PARTS[own.part];
    return batchedReward(own, {
      batchSize: own.batchSize,
      encode: (images) => toJpegs(images, own.quality),
      about: (prompt, metadata) => ({ ...wanted(prompt, metadata), prompt }),
      ask: (server, batch, signal) => {
        const subjects = batch.map(({ subject }) => subject);
        const request = {
          images: batch.map(({ image }) => image),
          meta_datas: batch.map(({ about }) => about),
          only_strict: own.onlyStrict,
        };
        return postPickle(server, request, (part) => numbersIn(part(list), subjects, list), signal);
      },
    });
  },
});

/**
 * The tag, and what is to be found or not, of a prompt's metadata.
 *
 * @throws RewardError naming the prompt
 */
function wanted(prompt: string, metadata: PromptMetadata): Readonly<Record<string, Picklable>> {
  const { tag, include, exclude = [] } = metadata;
  if (typeof tag !== "string" || !TAGS.includes(tag)) {
    throw new RewardError(
      `Expected ${listOf(TAGS)} for the tag of the prompt ${show(prompt)}, for geneval, but received ${show(tag)}`,
    );
  }
  for (const [name, list] of Object.entries({ include, exclude })) {
    const objects: readonly unknown[] | undefined = Array.isArray(list) ? list : undefined;
    const wrong = objects === undefined ? list : objects.find((object) => !isWanted(object));
    if (objects !== undefined && wrong === undefined && (name === "exclude" || objects.length > 0)) continue;
    throw new RewardError(
      `Expected objects such as {"class": "cup", "count": 2} for ${name} of the prompt ${show(prompt)}, for geneval, but received ${show(wrong)}`,
    );
  }
  return metadata as Readonly<Record<string, Picklable>>;
}

const isWanted = (value: unknown): value is JsonObject =>
  isJsonObject(value) &&
  typeof value["class"] === "string" &&
  Number.isInteger(value["count"]) &&
  Number(value["count"]) > 0;
