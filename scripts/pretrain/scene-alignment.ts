/** How often what is read off images is what was wanted: whole scenes, and slot by slot. */
import { sameScene, type Scene } from "../../src/world/index.js";

/** Shares of images: with the whole scene right ("scene"), and with each of its slots right. */
export type SceneAlignment = Record<string, number>;

/** @param wanted scenes of one template, at least one */
export function sceneAlignment(wanted: readonly Scene[], read: readonly Scene[]): SceneAlignment {
  const share = (isRight: (wanted: Scene, read: Scene) => boolean): number =>
    Number((wanted.filter((scene, i) => isRight(scene, read[i]!)).length / wanted.length).toFixed(4));
  const slots = Object.keys(wanted[0]!) as (keyof Scene)[];
  return {
    scene: share(sameScene),
    ...Object.fromEntries(slots.map((slot) => [slot, share((scene, other) => scene[slot] === other[slot])])),
  };
}
