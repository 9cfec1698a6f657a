/**
 * The interface of a reward: it scores finished images with one number each, higher is better. A RewardKind is an entry
 * of the registry, from which the rewards of a config are opened.
 */
import type { z } from "zod";
import { Registry, type Entry } from "../base/registry.js";
import type { Device, Tensor } from "../torch/index.js";
import type { Clip } from "./clip.js";
import { AnswerError } from "./error.js";
import type { Place, Placement, SharedModel } from "./placement.js";

export type { Place, Placement, SharedModel } from "./placement.js";

/** A reward as a plain function, see Reward.score. */
export type RewardFunction = (
  images: Tensor,
  prompts: string[],
  call?: ScoringCall,
) => ArrayLike<number> | Promise<ArrayLike<number>>;

/** What a file of prompts says of a prompt besides its text, such as the objects that GenEval looks for. */
export type PromptMetadata = Readonly<Record<string, unknown>>;

/** Identifies an image among those that are scored. */
export interface ImageKey {
  /** Images that compete with each other: `stage-0003/root-0012`, or a prompt's images of an evaluation. */
  readonly group: string;
  /** Its place in the group, from 0. */
  readonly index: number;
}

/** What a reward can know of a batch besides images and prompts. A program that scores by itself may leave it out. */
export interface ScoringCall {
  /** One for each image. */
  readonly keys?: readonly ImageKey[];
  /** One for each image; empty for a prompt of which nothing else is known. */
  readonly metadata?: readonly PromptMetadata[];
  /** Aborts when the run is interrupted, or the reward's time is over: whoever waits for a server stops waiting. */
  readonly signal?: AbortSignal;
}

/** An open reward. */
export interface Reward {
  /**
   * Whether it waits for something beside this process's libtorch, such as a server or another thread: it is then asked
   * together with the other rewards, and while the next images are decoded.
   */
  readonly concurrent?: boolean;
  /**
   * Scores images.
   *
   * @param images float32 [B, 3, H, W] in 0..1, on the run's device; the caller disposes of them
   * @param prompts one for each image
   * @returns one finite number for each image
   */
  score(images: Tensor, prompts: string[], call?: ScoringCall): ArrayLike<number> | Promise<ArrayLike<number>>;
  /**
   * Called after the last images of a stage, or of an evaluation's list of prompts. A reward whose scores are not there
   * yet, because a person gives them, throws here; what `score` has returned is then dropped, and the images are scored
   * again when the run goes on.
   */
  complete?(): void | Promise<void>;
  /** Frees what this reward owns, which excludes models from the context. */
  dispose?(): void;
}

/** A model that a reward loads, with what of it is downloaded. */
export interface NeededModel {
  /** A folder, a file, or a name on the hub. */
  readonly path: string;
  /** "settings": configs, tokenizer and preprocessor, without weights. Default: everything. */
  readonly purpose?: "settings";
  /** Number format of its weights, where that is not the option `dtype`. */
  readonly dtype?: Placement["dtype"];
}

/** What a reward can use when it is opened. */
export interface RewardContext {
  readonly device: Device;
  /** The folder of the run, of which a reward can have a folder of its own inside; undefined outside of a run. */
  readonly runFolder?: string | undefined;
  /** The local folder or file of a path in the config, which is downloaded already. */
  resolve(path: string): string;
  /**
   * The CLIP of a path in the config; shared by all rewards with that folder, and freed with the context.
   *
   * @param placement left out: wherever another reward has it, and no opinion on offloading
   * @param processor another path, for the tokenizer, preprocessor and config that the model lacks
   */
  clip(path: string, placement?: Placement, processor?: string | null): Clip;
  /**
   * Any other model of a path in the config, shared in the same way.
   *
   * @param kind what it is, so that two models of the same folder are two
   * @param load called once for each kind, path, device and dtype; a model that is offloaded begins on the CPU
   */
  shared<M extends SharedModel>(
    kind: string,
    path: string,
    placement: Placement,
    load: (folder: string, place: Place) => M,
  ): M;
}

/** A kind of reward as `registerReward` takes it. */
export interface RewardKind<O extends z.ZodObject = z.ZodObject> extends Entry<O> {
  /** The cost of scoring an image, in a few words: "one pass of CLIP's image encoder". */
  readonly cost: string;
  /** The values it takes, in a few words: "0 to 1", "usually 0.2 to 0.4". */
  readonly range?: string;
  /** Where it comes from: the paper and the implementation whose numbers it gives. */
  readonly source?: string;
  /** Licence of its weights or of what it talks to, in a few words. */
  readonly licence?: string;
  /** Its name in tables and metrics if the config gives no label. Default: the entry's name. */
  label?(options: z.output<O>): string;
  /**
   * The models it loads (folders or hub names), which are downloaded before it is opened. `--dry-run` counts their
   * weights where the options `device`, `dtype` and `offload` put them. Default: none.
   */
  models?(options: z.output<O>): readonly (string | NeededModel)[];
  /** Sentences on what is missing or wrong, found before anything is loaded, such as a package to install. */
  problems?(options: z.output<O>): readonly string[];
  /** Why it cannot score images of a prompt, in a sentence that names the prompt; undefined if it can. */
  promptProblem?(options: z.output<O>, prompt: string, metadata: PromptMetadata): string | undefined;
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
 * @param imageName an image as errors name it
 * @throws AnswerError if it is not one finite number for each prompt
 */
export function checkRewards(
  values: unknown,
  prompts: readonly string[],
  name: string,
  imageName = (i: number): string => `image ${i}, ${JSON.stringify(prompts[i])}`,
): number[] {
  const isList = Array.isArray(values) || (ArrayBuffer.isView(values) && !(values instanceof DataView));
  const list = isList ? Array.from(values as ArrayLike<unknown>) : undefined;
  if (list?.length !== prompts.length) {
    const received = list === undefined ? typeof values : `${list.length}`;
    const first =
      prompts.length === 0 ? "" : ` for ${imageName(0)}${prompts.length === 1 ? "" : " and those after it"}`;
    throw new AnswerError(
      `Expected ${prompts.length} numbers, one per image, from ${name} but received ${received}${first}`,
    );
  }
  list.forEach((value, i) => {
    if (typeof value === "number" && Math.abs(value) <= MOST) return;
    const received = typeof value === "string" ? JSON.stringify(value) : String(value);
    throw new AnswerError(
      `Expected a ${Number.isFinite(value) ? "number of at most 1e30" : "finite number"} from ${name} but received ${received} for ${imageName(i)}`,
    );
  });
  return list as number[];
}
