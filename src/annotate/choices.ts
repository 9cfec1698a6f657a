/**
 * What a person has chosen in a group of images, and what a key press makes of it. The page in the browser, the server and
 * the reward share this file, so it imports nothing.
 */

/** How a group is judged: its best and its worst image are chosen, or each image is rated 1 to 5. */
export type Scale = "best-worst" | "rating";

/** Images of one prompt that are judged together. An image is named by the hash of its pixels. */
export interface Group {
  readonly group: string;
  readonly prompt: string;
  readonly scale: Scale;
  /** At least one; no two are the same. */
  readonly images: readonly string[];
}

/** The choices made in a group so far. */
export interface Choice {
  readonly best: string | null;
  readonly worst: string | null;
  /** Whether the person sees no difference, or does not want to judge. */
  readonly equal: boolean;
  /** 1 to 5, by image. */
  readonly ratings: Readonly<Record<string, number>>;
}

export const LOWEST_RATING = 1;
export const HIGHEST_RATING = 5;

/** The rating of images that are equal. */
const MIDDLE_RATING = (LOWEST_RATING + HIGHEST_RATING) / 2;

/** A group that nobody has looked at. */
export const undecided: Choice = { best: null, worst: null, equal: false, ratings: {} };

/** All images are equal, or the person leaves the group out. */
export const allEqual: Choice = { ...undecided, equal: true };

/** Whether nothing is left to choose. */
export function isComplete({ scale, images }: Pick<Group, "scale" | "images">, choice: Choice): boolean {
  if (choice.equal) return true;
  if (scale === "rating") return images.every((image) => choice.ratings[image] !== undefined);
  return choice.best !== null && choice.worst !== null;
}

/** An image is chosen: the first is the best, the second the worst. Choosing one of them again takes it back. */
export function choose({ images }: Group, { best, worst }: Choice, image: string): Choice {
  if (image === best) return { ...undecided, worst };
  if (best !== null) return { ...undecided, best, worst: image };
  return ofTwo(images, { ...undecided, best: image, worst: image === worst ? null : worst });
}

/** An image is chosen as the worst, whether or not the best is known. */
export function chooseWorst({ images }: Group, { best, worst }: Choice, image: string): Choice {
  if (image === worst) return { ...undecided, best };
  return ofTwo(images, { ...undecided, best: image === best ? null : best, worst: image });
}

/** Where there are but two images, one decides about the other. */
function ofTwo(images: readonly string[], choice: Choice): Choice {
  const [first = null, second = null] = images;
  const other = (one: string | null): string | null => (one === null ? null : one === first ? second : first);
  if (images.length !== 2) return choice;
  return { ...choice, best: choice.best ?? other(choice.worst), worst: choice.worst ?? other(choice.best) };
}

/** An image is rated 1 to 5. */
export const rate = ({ ratings }: Choice, image: string, rating: number): Choice => ({
  ...undecided,
  ratings: { ...ratings, [image]: rating },
});

/**
 * The score of an image in a group that is judged.
 *
 * @returns 1 for the best, -1 for the worst, 0 for the others; or the rating, 1 to 5
 */
export function scoreOf(scale: Scale, { best, worst, equal, ratings }: Choice, image: string): number {
  if (scale === "rating") return equal ? MIDDLE_RATING : (ratings[image] ?? MIDDLE_RATING);
  if (equal) return 0;
  return image === best ? 1 : image === worst ? -1 : 0;
}
