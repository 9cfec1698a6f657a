/**
 * Asks a vision-language model about images, through OpenAI's protocol for chats, which vLLM, Ollama, LM Studio,
 * OpenRouter and OpenAI itself speak: `POST {url}/chat/completions`.
 *
 * Servers differ in what they know besides messages. One that refuses a parameter by name is asked without it from then
 * on.
 */
import { z } from "zod";
import { show } from "../../base/show.js";
import { AnswerCache, cacheKey } from "./answer-cache.js";
import { collect } from "./collect.js";
import { Failure } from "./failure.js";
import { resizePng } from "./images.js";
import { RewardServer, type BackOff, type Question } from "./reward-server.js";
import { serverOptions } from "./server-options.js";
import { choiceIn, numberIn, probabilityOfYes, textOf, type ChatChoice } from "./vlm-answers.js";

/** Spread into the options of a reward that asks a vision-language model. */
export const vlmOptions = {
  ...serverOptions("http://127.0.0.1:8000/v1"),
  url: serverOptions("http://127.0.0.1:8000/v1").url.describe(
    "Address of the server, up to what comes before `/chat/completions`. The default is vLLM's; Ollama's is `http://127.0.0.1:11434/v1`.",
  ),
  model: z.string().min(1).describe("Name of the model, as the server calls it."),
  imageSize: z
    .int()
    .min(1)
    .max(8192)
    .nullable()
    .default(null)
    .describe("Pixels of the longer side of the images that are sent; null sends them as they are."),
  maxTokens: z.int().min(1).max(100_000).default(512).describe("Length of an answer, at most."),
};

export type VlmOptions = z.output<z.ZodObject<typeof vlmOptions>>;

/** What a question is about, for errors: `image 3, "a cat"`. */
type Subjects = readonly string[];

/** A kind of question: what is sent besides messages, and what is made of the answer. */
interface Kind<V> {
  /** Decides the answer, with image and question. */
  readonly key: readonly unknown[];
  readonly parameters: Readonly<Record<string, unknown>>;
  /** @returns undefined when the answer holds nothing of the kind */
  readonly read: (choice: ChatChoice) => V | undefined;
  /** What was expected, for errors: "yes or no". */
  readonly expected: string;
  /** What counts as the answer when all attempts hold nothing of the kind; null is an error. */
  readonly onMiss: V | null;
}

/** An answer that holds nothing of the kind that was asked for. */
class Miss extends Failure {}

/** Parameters that a server may not know. */
const DISPENSABLE = ["response_format", "logprobs", "top_logprobs", "temperature", "max_tokens"];

/** The alternatives of a token to ask for: as many as all servers give. */
const TOP_TOKENS = 5;

/** An object with nothing but a score, as OpenAI's structured outputs want it. */
const SCORE_FORMAT = {
  type: "json_schema",
  json_schema: {
    name: "score",
    strict: true,
    schema: {
      type: "object",
      properties: { score: { type: "number" } },
      required: ["score"],
      additionalProperties: false,
    },
  },
};

/** A client for one server and model. Call `dispose` at the end. */
export class VlmClient {
  readonly #options: VlmOptions;
  readonly #server: RewardServer;
  readonly #cache: AnswerCache<number | string>;
  readonly #refused = new Set<string>();

  /** @throws RewardError when a named environment variable is not set */
  constructor(options: VlmOptions, { backOff }: { readonly backOff?: BackOff } = {}) {
    this.#options = options;
    this.#server = new RewardServer(options, backOff && { backOff });
    this.#cache = new AnswerCache(options.cacheSize);
  }

  /**
   * What the model says of each image.
   *
   * @param images PNGs
   * @param question one for all, such as "What is in this image?"
   * @throws RewardError when the server stays away or answers with nothing; Interrupted
   */
  async caption(images: readonly Buffer[], question: string, signal?: AbortSignal): Promise<string[]> {
    const kind: Kind<string> = {
      key: ["text"],
      parameters: {},
      read: (choice) => textOf(choice) || undefined,
      expected: "a text",
      onMiss: null,
    };
    const questions = images.map(() => question);
    return this.#ask(
      images,
      questions,
      questions.map((_, i) => `image ${i}`),
      kind,
      signal,
    );
  }

  /**
   * Answers to questions of yes or no: the probability of yes against no where the server gives log-probs, otherwise 1
   * or 0.
   *
   * @param images PNGs
   * @param questions one for each image
   * @param subjects what each is about, for errors
   * @param logprobs true: an answer without log-probs is a miss; false: never asked for; null: taken where given
   * @param onMiss what counts as the answer when there is neither yes nor no; null is an error
   * @throws RewardError when the server stays away, or for a miss; Interrupted
   */
  async yesNo(
    images: readonly Buffer[],
    questions: readonly string[],
    subjects: Subjects,
    { logprobs = null, onMiss = null }: { readonly logprobs?: boolean | null; readonly onMiss?: number | null } = {},
    signal?: AbortSignal,
  ): Promise<number[]> {
    const kind: Kind<number> = {
      key: ["yes-no", logprobs],
      parameters: logprobs === false ? {} : { logprobs: true, top_logprobs: TOP_TOKENS },
      read: (choice) => probabilityOfYes(choice, logprobs),
      expected: logprobs === true ? "yes or no with log-probs" : "yes or no",
      onMiss,
    };
    return this.#ask(images, questions, subjects, kind, signal);
  }

  /**
   * Numbers between `min` and `max`, scaled to 0..1. The server is asked for JSON; one that answers in words is
   * understood where the words hold one number, or one after "score".
   *
   * @param images PNGs
   * @param questions one for each image
   * @param subjects what each is about, for errors
   * @param onMiss what counts as the scaled number when there is none in that range; null is an error
   * @throws RewardError when the server stays away, or for a miss; Interrupted
   */
  async number(
    images: readonly Buffer[],
    questions: readonly string[],
    subjects: Subjects,
    { min, max, onMiss = null }: { readonly min: number; readonly max: number; readonly onMiss?: number | null },
    signal?: AbortSignal,
  ): Promise<number[]> {
    const kind: Kind<number> = {
      key: ["number", min, max],
      parameters: { response_format: SCORE_FORMAT },
      read: (choice) => {
        const number = numberIn(textOf(choice));
        return number === undefined || number < min || number > max ? undefined : (number - min) / (max - min);
      },
      expected: `a number from ${min} to ${max}`,
      onMiss,
    };
    return this.#ask(images, questions, subjects, kind, signal);
  }

  /** Closes all connections. */
  dispose(): void {
    this.#server.dispose();
  }

  async #ask<V extends number | string>(
    images: readonly Buffer[],
    questions: readonly string[],
    subjects: Subjects,
    kind: Kind<V>,
    signal: AbortSignal | undefined,
  ): Promise<V[]> {
    const keys = images.map((image, i) => cacheKey(image, questions[i], ...kind.key));
    return collect(keys, 1, this.#cache as AnswerCache<V>, signal, async ([index], inner) => {
      const png = await resizePng(images[index!]!, this.#options.imageSize);
      return [await this.#askOne(png, questions[index!]!, subjects[index!]!, kind, inner)];
    });
  }

  async #askOne<V>(png: Buffer, question: string, subject: string, kind: Kind<V>, signal: AbortSignal): Promise<V> {
    let sent: Record<string, unknown> = {};
    const asked: Question<V> = {
      body: () => {
        sent = this.#parameters(kind.parameters);
        return JSON.stringify({ ...sent, messages: [message(png, question)] });
      },
      contentType: "application/json",
      path: "/chat/completions",
      read: (answer) => {
        const choice = choiceIn(answer, subject);
        const value = kind.read(choice);
        if (value === undefined) throw new Miss(`${kind.expected} for ${subject},`, show(textOf(choice)));
        return value;
      },
      mend: (words) => this.#leaveOut(sent, words),
    };
    try {
      return await this.#server.post(asked, signal);
    } catch (error) {
      if (kind.onMiss !== null && (error as Error).cause instanceof Miss) return kind.onMiss;
      throw error;
    }
  }

  #parameters(own: Readonly<Record<string, unknown>>): Record<string, unknown> {
    const all = { model: this.#options.model, temperature: 0, max_tokens: this.#options.maxTokens, ...own };
    return Object.fromEntries(Object.entries(all).filter(([name]) => !this.#refused.has(name)));
  }

  /** Leaves out from now on what a server refuses by name. @returns whether a parameter was sent that now is not */
  #leaveOut(sent: Readonly<Record<string, unknown>>, words: string): boolean {
    const named = DISPENSABLE.filter((name) => name in sent && new RegExp(`\\b${name}\\b`).test(words));
    // The alternatives of tokens are refused where their log-probs are not asked for.
    if (named.includes("logprobs")) named.push("top_logprobs");
    for (const name of named) this.#refused.add(name);
    return named.length > 0;
  }
}

/** A message with an image and a question. */
const message = (png: Buffer, question: string): unknown => ({
  role: "user",
  content: [
    { type: "image_url", image_url: { url: `data:image/png;base64,${png.toString("base64")}` } },
    { type: "text", text: question },
  ],
});
