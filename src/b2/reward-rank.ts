/** What a reward rank does: it opens the rewards of a run, and scores the images that workers which train send it. */
import type { RunContext } from "../base/progress.js";
import { receiveRequest, sendAnswer, type Group, type Request } from "../distributed/index.js";
import { resolveModel } from "../hub/index.js";
import { RewardError, RewardResources, RewardSet } from "../rewards/index.js";
import type { Tensor } from "../torch/index.js";
import { fetchScoringModels } from "./models.js";
import { openDevice } from "./policy/device.js";
import { untilAborted, type RewardQuestion, type RewardReply, type RewardTraits } from "./remote-rewards.js";
import type { FolderPlan } from "./run-plan.js";

/**
 * Scores until nothing is left to score. Loads the models of the rewards that train and of judges, and nothing else.
 *
 * @param runFolder where rank 0 writes the run; undefined on a machine that does not have it
 * @throws WorkerError when another worker is lost; InputError for rewards that cannot be opened
 */
export async function runRewardRank(
  all: Group,
  { config }: Pick<FolderPlan, "config">,
  runFolder: string | undefined,
  context: RunContext,
): Promise<void> {
  const device = openDevice(config);
  // Rank 0 downloads what is missing first: workers of one host share its cache.
  await all.barrier();
  await fetchScoringModels(config, { rewards: true }, context);
  const resources = new RewardResources(device, resolveModel, runFolder);
  try {
    const rewards = await RewardSet.open(config.rewards, resources);
    try {
      await resources.using(() => answerAll(all, rewards, device, context.signal));
    } finally {
      rewards.dispose();
    }
  } finally {
    resources.dispose();
  }
}

/** Rewards that wait for something else than libtorch are asked about several batches at a time. */
async function answerAll(
  all: Group,
  rewards: RewardSet,
  device: RewardResources["device"],
  signal: AbortSignal | undefined,
): Promise<void> {
  const traits: RewardTraits = {
    concurrent: rewards.concurrent,
    isFinal: rewards.isFinal,
    needsAll: rewards.needsAll,
  };
  const answerTo = async ({ value, tensor }: Request<RewardQuestion>): Promise<unknown> => {
    switch (value.kind) {
      case "traits":
        return traits;
      case "score": {
        const images = onDevice(tensor!, device);
        try {
          const { parts, seconds } = await rewards.score(images, [...value.prompts], {
            ...value.call,
            ...(signal && { signal }),
          });
          return { parts, seconds };
        } finally {
          images.dispose();
        }
      }
      case "complete":
        await rewards.complete(value);
        return null;
      case "end":
        return null;
    }
  };
  const pending = new Set<Promise<void>>();
  let isOver = false;
  while (!isOver) {
    const request = await untilAborted(Promise.race([receiveRequest<RewardQuestion>(all), failureOf(pending)]), signal);
    isOver = request.value.kind === "end";
    const answered = replyOf(() => answerTo(request)).then((reply) => sendAnswer(all, request, reply));
    if (!traits.concurrent) {
      await answered;
      continue;
    }
    pending.add(answered);
    answered.then(
      () => pending.delete(answered),
      () => undefined,
    );
  }
  await Promise.all(pending);
}

/** Rejects when one of the promises does, and never resolves. */
const failureOf = (promises: Iterable<Promise<void>>): Promise<never> =>
  new Promise((_, reject) => {
    for (const promise of promises) promise.catch(reject);
  });

async function replyOf<T>(work: () => Promise<T>): Promise<RewardReply<T>> {
  try {
    return { result: await work() };
  } catch (error) {
    if (!(error instanceof RewardError)) throw error;
    const { cause } = error;
    return { error: error.message, cause: cause instanceof Error ? cause.stack : undefined };
  }
}

function onDevice(images: Tensor, device: RewardResources["device"]): Tensor {
  if (device === images.device) return images;
  const moved = images.to({ device });
  images.dispose();
  return moved;
}
