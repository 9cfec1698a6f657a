/**
 * The folder where the reward `people` asks, and `b2 annotate` writes down what people answer. It is in the run folder:
 *
 *     annotations/
 *       queue.jsonl         a line for each group of images to judge; only the run writes it. Of a group the last line
 *                           counts: its images have changed since
 *       images/<hash>.png   the images, by the SHA-256 of their pixels
 *       judgements.jsonl    a line for each key press, with what is chosen in the group since; only `b2 annotate` writes
 *                           it. Of the same images of a group the last line counts
 *       annotate.lock       while a `b2 annotate` serves the folder
 *
 * Judgements belong to images, whatever their stage: the same images of a group need no second judgement.
 */
import { join } from "node:path";
import { z } from "zod";
import { HIGHEST_RATING, isComplete, LOWEST_RATING, undecided, type Choice, type Group } from "./choices.js";
import { LineFile } from "./line-file.js";

const hash = z.string().regex(/^[0-9a-f]{64}$/, "Expected the SHA-256 of an image");

const groupFields = {
  group: z.string().min(1),
  images: z.array(hash).min(1),
};

/** A line of queue.jsonl. */
const queuedGroup = z.object({
  ...groupFields,
  prompt: z.string(),
  scale: z.enum(["best-worst", "rating"]),
  /** ISO 8601. */
  at: z.string(),
});

export type QueuedGroup = z.output<typeof queuedGroup>;

const choice = z.object({
  best: hash.nullable(),
  worst: hash.nullable(),
  equal: z.boolean(),
  ratings: z.record(hash, z.int().min(LOWEST_RATING).max(HIGHEST_RATING)),
});

/** What the page sends: the choices in a group, and the images that the person saw. */
export const judgedGroup = z.strictObject({ ...groupFields, choice });

/** A line of judgements.jsonl. */
const judgement = z.object({
  ...groupFields,
  choice,
  at: z.string(),
  /** Whether the line takes back the press before it, and this is what was chosen before. */
  isUndo: z.boolean().default(false),
});

export type Judgement = z.output<typeof judgement>;

/** An annotation folder, for its readers and its writers. */
export class Annotations {
  readonly folder: string;
  readonly queue: LineFile<QueuedGroup>;
  readonly judgements: LineFile<Judgement>;
  readonly #latest = whenNew((lines: readonly QueuedGroup[]) => new Map(lines.map((line) => [line.group, line])));
  readonly #byGroup = whenNew(byGroup);

  constructor(folder: string) {
    this.folder = folder;
    this.queue = new LineFile(join(folder, "queue.jsonl"), queuedGroup);
    this.judgements = new LineFile(join(folder, "judgements.jsonl"), judgement);
  }

  /** The lock file of those who serve the folder. */
  get lock(): string {
    return join(this.folder, "annotate.lock");
  }

  /** The PNG of an image. */
  imageFile(image: string): string {
    return join(this.folder, "images", `${image}.png`);
  }

  /** What people are asked, by group; the same map as before unless there is something new. */
  groups(): ReadonlyMap<string, QueuedGroup> {
    return this.#latest(this.queue.lines());
  }

  /** What is chosen in a group of just these images. */
  choiceIn(group: Pick<Group, "group" | "images">): Choice {
    return this.#linesOf(group.group).findLast((line) => isSame(line, group))?.choice ?? undecided;
  }

  /** What was chosen last in the group with this image among its images; undefined unless all was chosen. */
  choiceAbout({ group, scale }: Pick<Group, "group" | "scale">, image: string): Choice | undefined {
    const last = this.#linesOf(group).findLast(({ images }) => images.includes(image));
    return last !== undefined && isComplete({ ...last, scale }, last.choice) ? last.choice : undefined;
  }

  #linesOf(group: string): readonly Judgement[] {
    return this.#byGroup(this.judgements.lines()).get(group) ?? [];
  }
}

/** Whether these are the same images of the same group. */
export function isSame(one: Pick<Group, "group" | "images">, other: Pick<Group, "group" | "images">): boolean {
  return (
    one.group === other.group &&
    one.images.length === other.images.length &&
    one.images.every((image, i) => image === other.images[i])
  );
}

function byGroup(lines: readonly Judgement[]): ReadonlyMap<string, readonly Judgement[]> {
  const groups = new Map<string, Judgement[]>();
  for (const line of lines) {
    const own = groups.get(line.group);
    if (own === undefined) groups.set(line.group, [line]);
    else own.push(line);
  }
  return groups;
}

/** Computes again only where it is given something else than the last time. */
export function whenNew<A, B>(compute: (given: A) => B): (given: A) => B {
  let last: { readonly given: A; readonly result: B } | undefined;
  return (given) => {
    if (last?.given !== given) last = { given, result: compute(given) };
    return last.result;
  };
}
