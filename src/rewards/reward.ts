/**
 * What a reward is: one number an image, higher for better, known only when the image is finished. A kind of reward is an
 * entry of the registry; what a config asks for is opened from it.
 */
import type { z } from "zod";
import { Registry, type Entry } from "../base/registry.js";
import type { Device, Tensor } from "../torch/index.js";
import type { Clip } from "./clip.js";
import { RewardError } from "./error.js";

/** A reward as a program gives it: a function. */
export type RewardFunction = (images: Tensor, prompts: string[]) => ArrayLike<number> | Promise<ArrayLike<number>>;

export interface Reward {
  /**
   * @param images float32 [B, 3, H, W] in 0..1, the caller's to dispose
   * @param prompts one for each image
   * @returns one finite number for each image
   */
  score(images: Tensor, prompts: string[]): ArrayLike<number> | Promise<ArrayLike<number>>;
  /** Frees what only this reward holds; what came from the context is not its own. */
  dispose?(): void;
}

/** What a reward is opened with. */
export interface RewardContext {
  readonly device: Device;
  /** A CLIP by its path in the config: one for all that ask for the same folder, freed with the context. */
  clip(path: string): Clip;
}

/** A kind of reward, as `registerReward` takes it. */
export interface RewardKind<O extends z.ZodObject = z.ZodObject> extends Entry<O> {
  /** What scoring an image takes, in a few words: "one pass of CLIP's image encoder". */
  readonly cost: string;
  /** What it is called in tables and metrics where the config gives no label. Default: its name. */
  label?(options: z.output<O>): string;
  /** The models it loads, folders or names on the hub, which are downloaded before anything is opened. Default: none. */
  models?(options: z.output<O>): readonly string[];
  /**
   * @param options as the entry's own schema gave them
   * @throws InputError naming the file, or the option, at fault
   */
  open(options: z.output<O>, context: RewardContext): Reward | Promise<Reward>;
}

/** A reward whose functions take what its own schema gives. */
export const defineReward = <O extends z.ZodObject>(kind: RewardKind<O>): RewardKind => kind;

/** Every kind of reward; a config names some. */
export const rewards = new Registry<RewardKind>("reward");

/**
 * What a reward returned, as numbers.
 *
 * @param name of the reward, for the error
 * @throws RewardError when that is not one finite number for each prompt
 */
export function checkRewards(values: unknown, prompts: readonly string[], name: string): number[] {
  const isList = Array.isArray(values) || (ArrayBuffer.isView(values) && !(values instanceof DataView));
  const list = isList ? Array.from(values as ArrayLike<unknown>) : undefined;
  if (list?.length !== prompts.length) {
    const received = list === undefined ? typeof values : `${list.length}`;
    throw new RewardError(`Expected ${prompts.length} numbers, one an image, from ${name} but received ${received}`);
  }
  list.forEach((value, i) => {
    if (typeof value === "number" && Number.isFinite(value)) return;
    const received = typeof value === "string" ? JSON.stringify(value) : String(value);
    throw new RewardError(
      `Expected a finite number from ${name} but received ${received} for image ${i}, ${JSON.stringify(prompts[i])}`,
    );
  });
  return list as number[];
}
