/**
 * The interface of a reward: it scores finished images with one number each, higher is better. A RewardKind is an entry
 * of the registry, from which the rewards of a config are opened.
 */
import type { z } from "zod";
import { Registry, type Entry } from "../base/registry.js";
import type { Device, Tensor } from "../torch/index.js";
import type { Clip } from "./clip.js";
import { RewardError } from "./error.js";

/** A reward as a plain function, see Reward.score. */
export type RewardFunction = (images: Tensor, prompts: string[]) => ArrayLike<number> | Promise<ArrayLike<number>>;

/** An open reward. */
export interface Reward {
  /**
   * Scores images.
   *
   * @param images float32 [B, 3, H, W] in 0..1, on the run's device; the caller disposes of them
   * @param prompts one for each image
   * @returns one finite number for each image
   */
  score(images: Tensor, prompts: string[]): ArrayLike<number> | Promise<ArrayLike<number>>;
  /** Frees what this reward owns, which excludes models from the context. */
  dispose?(): void;
}

/** What a reward can use when it is opened. */
export interface RewardContext {
  readonly device: Device;
  /** The CLIP of a path in the config; shared by all rewards with that folder, and freed with the context. */
  clip(path: string): Clip;
}

/** A kind of reward as `registerReward` takes it. */
export interface RewardKind<O extends z.ZodObject = z.ZodObject> extends Entry<O> {
  /** The cost of scoring an image, in a few words: "one pass of CLIP's image encoder". */
  readonly cost: string;
  /** Its name in tables and metrics if the config gives no label. Default: the entry's name. */
  label?(options: z.output<O>): string;
  /** The models it loads (folders or hub names), which are downloaded before it is opened. Default: none. */
  models?(options: z.output<O>): readonly string[];
  /**
   * Opens the reward.
   *
   * @param options parsed by the entry's own schema
   * @throws InputError naming the file or the option at fault
   */
  open(options: z.output<O>, context: RewardContext): Reward | Promise<Reward>;
}

/** Types a reward's functions by its own options schema. */
export const defineReward = <O extends z.ZodObject>(kind: RewardKind<O>): RewardKind => kind;

/** All registered rewards; a config names some of them. */
export const rewards = new Registry<RewardKind>("reward");

/** Larger rewards are mistakes, and the sums of their squares would overflow. */
const MOST = 1e30;

/**
 * Checks what a reward returned.
 *
 * @param name of the reward, for errors
 * @throws RewardError if it is not one finite number for each prompt
 */
export function checkRewards(values: unknown, prompts: readonly string[], name: string): number[] {
  const isList = Array.isArray(values) || (ArrayBuffer.isView(values) && !(values instanceof DataView));
  const list = isList ? Array.from(values as ArrayLike<unknown>) : undefined;
  if (list?.length !== prompts.length) {
    const received = list === undefined ? typeof values : `${list.length}`;
    throw new RewardError(`Expected ${prompts.length} numbers, one per image, from ${name} but received ${received}`);
  }
  list.forEach((value, i) => {
    if (typeof value === "number" && Math.abs(value) <= MOST) return;
    const received = typeof value === "string" ? JSON.stringify(value) : String(value);
    throw new RewardError(
      `Expected a ${Number.isFinite(value) ? "number of at most 1e30" : "finite number"} from ${name} but received ${received} for image ${i}, ${JSON.stringify(prompts[i])}`,
    );
  });
  return list as number[];
}
