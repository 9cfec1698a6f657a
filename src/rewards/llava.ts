/**
 * What LLaVA says of an image against what it should say, as in DDPO (Black et al. 2023, arXiv 2305.13301) and
 * ddpo-pytorch: by the answers to questions, or by BERTScore with the prompt. A server computes both:
 * kvablack/LLaVA-server, whose protocol this speaks.
 */
import { z } from "zod";
import { show } from "../base/show.js";
import { problemOf, RewardError } from "./error.js";
import { defineReward, type PromptMetadata } from "./reward.js";
import { batchedReward } from "./servers/batched-reward.js";
import { Failure } from "./servers/failure.js";
import { toJpegs } from "./servers/images.js";
import { isFiniteNumber } from "./servers/json-answer.js";
import { postPickle } from "./servers/pickle-server.js";
import { qualityOption, serverOptions, serverProblems } from "./servers/server-options.js";

/** How ddpo-pytorch's client asks. */
const QUESTION = "Answer concisely: what is going on in this image?";
const ANSWER = "The image contains {prompt}";
const BATCH_SIZES = { strict: 4, "bert-score": 16 };

const options = z.object({
  ...serverOptions("http://127.0.0.1:8085"),
  mode: z
    .enum(["bert-score", "strict"])
    .default("bert-score")
    .describe(
      "`bert-score`: what LLaVA says is in the image, compared with the prompt. `strict`: the share of a prompt's `answers` that LLaVA's words hold, for its `questions`; both are lists that come with the prompt.",
    ),
  part: z.enum(["recall", "precision", "f1"]).default("recall").describe("Which part of BERTScore is the reward."),
  question: z.string().min(1).default(QUESTION).describe("What `bert-score` asks LLaVA."),
  answer: z
    .string()
    .min(1)
    .default(ANSWER)
    .describe("What `bert-score` compares the answer with; `{prompt}` is the prompt."),
  batchSize: z
    .int()
    .min(1)
    .max(1000)
    .nullable()
    .default(null)
    .describe("Images in a request, at most; null is 16 for `bert-score` and 4 for `strict`.")
    .meta({ affects: "rounding" }),
  quality: qualityOption(80),
});

type Options = z.output<typeof options>;

/** What is asked of one image: as many answers as questions. */
interface Questions {
  readonly questions: readonly string[];
  readonly answers: readonly string[];
}

export const llava = defineReward({
  name: "llava",
  summary: "LLaVA's description of the image against the prompt, or its answers to questions, by DDPO's server",
  cost: "one answer of LLaVA per question on the server, and for `bert-score` one pass of DeBERTa",
  range: "`strict`: 0 to 1; `bert-score`: usually 0.3 to 0.9",
  source: "Black et al. 2023, arXiv 2305.13301, section 5.3; the server is kvablack/LLaVA-server",
  licence: "that of the server and its weights (LLaVA, DeBERTa)",
  options,
  problems: serverProblems,
  promptProblem: ({ mode }, prompt, metadata) =>
    mode === "strict" ? problemOf(() => questionsOf(prompt, metadata)) : undefined,
  open: (own) =>
    batchedReward(own, {
      batchSize: own.batchSize ?? BATCH_SIZES[own.mode],
      encode: (images) => toJpegs(images, own.quality),
      about: (prompt, metadata) => (own.mode === "strict" ? questionsOf(prompt, metadata) : aboutPrompt(own, prompt)),
      ask: (server, batch, signal) => {
        const abouts = batch.map(({ about }) => about);
        const subjects = batch.map(({ subject }) => subject);
        const request = { images: batch.map(({ image }) => image), queries: padded(abouts) };
        if (own.mode === "strict") {
          return postPickle(server, request, (part) => shares(part("outputs"), abouts, subjects), signal);
        }
        const withAnswers = { ...request, answers: abouts.map(({ answers }) => answers) };
        return postPickle(server, withAnswers, (part) => singles(part(own.part), subjects, own.part), signal);
      },
    }),
});

/** The one question and answer of `bert-score`. */
const aboutPrompt = ({ question, answer }: Options, prompt: string): Questions => ({
  questions: [question],
  answers: [answer.replaceAll("{prompt}", () => prompt)],
});

/** @throws RewardError naming the prompt */
function questionsOf(prompt: string, { questions, answers }: PromptMetadata): Questions {
  const wrong = Object.entries({ questions, answers }).find(([, list]) => !isTexts(list));
  if (wrong !== undefined) {
    throw new RewardError(
      `Expected texts for ${wrong[0]} of the prompt ${show(prompt)}, for llava's mode strict, but received ${show(wrong[1])}`,
    );
  }
  const both = { questions, answers } as Questions;
  if (both.questions.length === both.answers.length) return both;
  throw new RewardError(
    `Expected as many answers as questions of the prompt ${show(prompt)}, for llava, but received ${both.answers.length} for ${both.questions.length}`,
  );
}

const isTexts = (value: unknown): value is string[] =>
  Array.isArray(value) && value.length > 0 && value.every((one) => typeof one === "string");

/** Equally many questions for each image, as the server wants them: the last one is repeated, and its answer ignored. */
function padded(abouts: readonly Questions[]): string[][] {
  const most = Math.max(...abouts.map(({ questions }) => questions.length));
  return abouts.map(({ questions }) => Array.from({ length: most }, (_, i) => questions[i] ?? questions.at(-1)!));
}

/** The share of an image's answers that the server's words hold, each in the words to its question. */
function shares(outputs: unknown, abouts: readonly Questions[], subjects: readonly string[]): number[] {
  return rows(outputs, subjects, "outputs").map((row, i) => {
    const { answers } = abouts[i]!;
    const held = answers.filter((answer, j) => {
      const words = row[j];
      if (typeof words !== "string")
        throw new Failure(`${answers.length} texts in outputs for ${subjects[i]},`, show(row));
      return words.includes(answer);
    });
    return held.length / answers.length;
  });
}

/** The single number of each image. */
const singles = (values: unknown, subjects: readonly string[], what: string): number[] =>
  rows(values, subjects, what).map((row, i) => {
    const [value] = row;
    if (isFiniteNumber(value)) return value;
    throw new Failure(`a finite number in ${what} for ${subjects[i]},`, show(value));
  });

/** A list for each image. */
function rows(values: unknown, subjects: readonly string[], what: string): unknown[][] {
  const list: readonly unknown[] | undefined = Array.isArray(values) ? values : undefined;
  if (list?.length !== subjects.length) {
    const received = list === undefined ? show(values) : `${list.length}`;
    throw new Failure(`${subjects.length} lists in ${what}, one for each image,`, received);
  }
  return list.map((row, i) => {
    if (Array.isArray(row)) return row as unknown[];
    throw new Failure(`a list in ${what} for ${subjects[i]},`, show(row));
  });
}
