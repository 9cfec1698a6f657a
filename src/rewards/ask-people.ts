/**
 * The reward `people` at work: it writes down which images to judge, and reads what people have said of them.
 *
 * A group is judged as a whole, and its images may come in several batches. So `score` gives 0 where an answer is missing,
 * and `complete`, which knows that all images have come, says what is missing and stops the run.
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { Annotations, isComplete, isSame, scoreOf, type Group, type Scale } from "../annotate/index.js";
import { readImage, toPixels, writePng } from "../images/index.js";
import { layout } from "../runs/index.js";
import { tidy, type Tensor } from "../torch/index.js";
import { RewardError } from "./error.js";
import type { Reward, ScoringCall } from "./reward.js";

/** A group whose images are coming in. */
interface Incoming {
  readonly prompt: string;
  /** By place in the group, the image's name. */
  readonly images: Map<number, string>;
}

export class People implements Reward {
  readonly #folder: string;
  readonly #scale: Scale;
  readonly #annotations: Annotations;
  readonly #incoming = new Map<string, Incoming>();

  /** @param folder of the run, which gets a folder of annotations */
  constructor(folder: string, scale: Scale) {
    this.#folder = folder;
    this.#scale = scale;
    this.#annotations = new Annotations(layout.annotations(folder));
  }

  /**
   * What people have said of images; 0 where they have not yet.
   *
   * @param images [B, 3, H, W] in 0..1
   * @param call.keys which images belong together; without them, those of the same prompt do
   * @throws InputError naming a damaged file, or one that cannot be written
   */
  async score(images: Tensor, prompts: string[], { keys }: ScoringCall = {}): Promise<number[]> {
    const scores: number[] = [];
    for (const [i, prompt] of prompts.entries()) {
      const group = keys?.[i]?.group ?? prompt;
      const incoming = this.#incomingOf(group, prompt);
      const image = tidy(() => images.select(0, i));
      try {
        const name = await this.#nameOf(image, group);
        incoming.images.set(keys?.[i]?.index ?? incoming.images.size, name);
        scores.push(this.#scoreOf(group, name));
      } finally {
        image.dispose();
      }
    }
    // The images of the last group may go on in the next batch.
    const unfinished = keys?.at(-1)?.group ?? prompts.at(-1);
    for (const group of this.#incoming.keys()) if (group !== unfinished) this.#queue(this.#groupOf(group));
    return scores;
  }

  /** @throws RewardError when judgements are missing */
  complete(): void {
    const incoming = [...this.#incoming].map(([name, { images }]) => ({ ...this.#groupOf(name), count: images.size }));
    this.#incoming.clear();
    const alone = incoming.find(({ count }) => count === 1);
    if (this.#scale === "best-worst" && alone !== undefined) {
      throw new RewardError(
        `Expected at least 2 images in a group, for the reward people to choose from, but received 1 in ${alone.group}; ` +
          "set branch.count (or eval.imagesPerPrompt) to 2 or more, or the reward's scale to rating",
      );
    }
    const missing = incoming.filter((group) => !this.#isJudged(group));
    if (missing.length === 0) return;
    for (const group of missing) this.#queue(group);
    const images = missing.reduce((sum, { images }) => sum + images.length, 0);
    throw new RewardError(
      `Expected judgements of ${images} images in ${missing.length} ${missing.length === 1 ? "group" : "groups"} for the ` +
        `reward people but received none yet (${incoming.length - missing.length} of ${incoming.length} groups are ` +
        `judged); run \`b2 annotate ${this.#folder}\`, then the same command again`,
    );
  }

  #incomingOf(group: string, prompt: string): Incoming {
    const known = this.#incoming.get(group);
    if (known !== undefined) return known;
    const begun = { prompt, images: new Map<number, string>() };
    this.#incoming.set(group, begun);
    return begun;
  }

  /** What has come of a group, as people are asked: in the order of its places, equal images once. */
  #groupOf(name: string): Group {
    const { prompt, images } = this.#incoming.get(name)!;
    const inOrder = [...images].sort(([a], [b]) => a - b).map(([, image]) => image);
    return { group: name, prompt, scale: this.#scale, images: [...new Set(inOrder)] };
  }

  /** Whether nothing is left to ask. Images of which all are the same need no one to compare them. */
  #isJudged(group: Group): boolean {
    if (this.#scale === "best-worst" && group.images.length === 1) return true;
    return isComplete(group, this.#annotations.choiceIn(group));
  }

  #scoreOf(group: string, image: string): number {
    const choice = this.#annotations.choiceAbout({ group, scale: this.#scale }, image);
    return choice === undefined ? 0 : scoreOf(this.#scale, choice, image);
  }

  /** Asks people about a group, unless they are asked already, or have answered. */
  #queue(group: Group): void {
    const queued = this.#annotations.groups().get(group.group);
    if (this.#isJudged(group)) return;
    if (queued !== undefined && isSame(queued, group) && queued.scale === group.scale) return;
    this.#annotations.queue.append({ ...group, images: [...group.images], at: new Date().toISOString() });
  }

  /**
   * The name of an image, which is there as a file afterwards: the SHA-256 of its pixels; or that of an image of this
   * group that looks the same and is known, because another device or batch size rounds differently.
   */
  async #nameOf(image: Tensor, group: string): Promise<string> {
    const pixels = toPixels(image);
    const name = createHash("sha256").update(`${image.shape.join()}\n`).update(pixels).digest("hex");
    const known = this.#annotations.groups().get(group)?.images ?? [];
    const alike = known.includes(name) ? name : await this.#nearest(pixels, known);
    if (alike !== undefined) return alike;
    const file = this.#annotations.imageFile(name);
    if (!existsSync(file)) writePng(file, image);
    return name;
  }

  /** Of images that differ from these pixels by no more than rounding, the one that differs least. */
  async #nearest(pixels: Uint8Array, names: readonly string[]): Promise<string | undefined> {
    let nearest: { readonly name: string; readonly sum: number } | undefined;
    for (const name of names) {
      const other = await pixelsOf(this.#annotations.imageFile(name));
      const sum = other === undefined ? Infinity : differenceOf(pixels, other);
      if (sum < (nearest?.sum ?? Infinity)) nearest = { name, sum };
    }
    return nearest?.name;
  }
}

/** What rounding changes of a pixel at most, of 255. Nobody sees it. */
const ROUNDING = 2;

/** The sum of all differences; infinite where one is more than rounding. */
function differenceOf(pixels: Uint8Array, other: Uint8Array): number {
  if (pixels.length !== other.length) return Infinity;
  let sum = 0;
  for (let i = 0; i < pixels.length; i++) {
    const difference = Math.abs(pixels[i]! - other[i]!);
    if (difference > ROUNDING) return Infinity;
    sum += difference;
  }
  return sum;
}

/** The pixels of a PNG; undefined if somebody has deleted it. */
async function pixelsOf(file: string): Promise<Uint8Array | undefined> {
  if (!existsSync(file)) return undefined;
  const image = await readImage(file);
  try {
    return toPixels(image);
  } finally {
    image.dispose();
  }
}
