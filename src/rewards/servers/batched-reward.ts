/** A reward whose server scores several images in one request. */
import type { Tensor } from "../../torch/index.js";
import type { PromptMetadata, Reward } from "../reward.js";
import { AnswerCache, cacheKey } from "./answer-cache.js";
import { collect } from "./collect.js";
import { RewardServer } from "./reward-server.js";
import type { ServerOptions } from "./server-options.js";
import { subjectsOf } from "./subjects.js";

/** An image, and what the server is told and asked of it. */
export interface Asked<A> {
  /** As the server takes it. */
  readonly image: Buffer;
  readonly about: A;
  /** The image and its prompt, for errors. */
  readonly subject: string;
}

export interface BatchedReward<A> {
  /** Images in a request, at most. */
  readonly batchSize: number;
  /** The images of a batch [B, 3, H, W] as the server takes them. The tensor is read before anything is awaited. */
  readonly encode: (images: Tensor) => Promise<Buffer[]>;
  /** What decides the score besides the image, as plain data. @throws RewardError for metadata that will not do */
  readonly about: (prompt: string, metadata: PromptMetadata) => A;
  /** Asks for the scores of a batch, one for each image. */
  readonly ask: (server: RewardServer, batch: readonly Asked<A>[], signal: AbortSignal) => Promise<number[]>;
}

/** @throws RewardError when an environment variable that the options name is not set */
export function batchedReward<A>(options: ServerOptions, reward: BatchedReward<A>): Reward {
  const server = new RewardServer(options);
  const cache = new AnswerCache<number>(options.cacheSize);
  return {
    concurrent: true,
    score: async (images, prompts, { keys, metadata, signal } = {}) => {
      const abouts = prompts.map((prompt, i) => reward.about(prompt, metadata?.[i] ?? {}));
      const encoded = await reward.encode(images);
      const subjects = subjectsOf(prompts, keys);
      const asked = encoded.map((image, i): Asked<A> => ({ image, about: abouts[i]!, subject: subjects[i]! }));
      const cacheKeys = asked.map(({ image, about }) => cacheKey(image, about));
      return collect(cacheKeys, reward.batchSize, cache, signal, (indices, inner) => {
        const batch = indices.map((i) => asked[i]!);
        return reward.ask(server, batch, inner);
      });
    },
    dispose: () => server.dispose(),
  };
}
