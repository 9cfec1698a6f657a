/** Models that rewards and measures share during a run, by folder, device and number format. */
import type { Device } from "../torch/index.js";
import { isComplete } from "./clip-files.js";
import { Clip } from "./clip.js";
import { checkPlace, USUAL_PLACEMENT, type Place, type Placement, type SharedModel } from "./placement.js";
import type { RewardContext } from "./reward.js";

interface Held {
  readonly model: SharedModel;
  /** Kind and folder. */
  readonly what: string;
  /** Where it computes. */
  readonly device: Device;
  /** Whether all that have asked for it with a placement let it leave its device; undefined: nobody has. */
  offload: boolean | undefined;
}

export class RewardResources implements RewardContext {
  readonly device: Device;
  readonly runFolder: string | undefined;
  readonly #resolve: (path: string) => string;
  readonly #models = new Map<string, Held>();
  /** How many calls of `using` there are at the moment. */
  #users = 0;

  /**
   * @param resolve maps a path from a config to a local folder
   * @param runFolder of the run whose rewards these are, if there is one
   */
  constructor(device: Device, resolve: (path: string) => string = (path) => path, runFolder?: string) {
    this.device = device;
    this.#resolve = resolve;
    this.runFolder = runFolder;
  }

  resolve(path: string): string {
    return this.#resolve(path);
  }

  clip(path: string, placement?: Placement, processor: string | null = null): Clip {
    const folder = this.#resolve(path);
    const other = processor === null || isComplete(folder) ? undefined : this.#resolve(processor);
    const kind = other === undefined ? "clip" : `clip with ${other}`;
    return this.#held(kind, folder, placement, (place, home) => {
      checkPlace(folder, home);
      return Clip.fromPretrained(folder, { ...place, processor: other });
    });
  }

  shared<M extends SharedModel>(
    kind: string,
    path: string,
    placement: Placement,
    load: (folder: string, place: Place) => M,
  ): M {
    const folder = this.#resolve(path);
    return this.#held(kind, folder, placement, (place) => load(folder, place));
  }

  /** With all models on their devices; those that are offloaded leave them afterwards. */
  async using<T>(work: () => Promise<T>): Promise<T> {
    this.#users++;
    try {
      for (const held of this.#away()) held.model.moveTo(held.device);
      return await work();
    } finally {
      this.#users--;
      if (this.#users === 0) for (const { model } of this.#away()) model.moveTo("cpu");
    }
  }

  /** Frees all models. */
  dispose(): void {
    for (const { model } of this.#models.values()) model.dispose();
    this.#models.clear();
  }

  /** The models that are off their devices while nothing is scored. */
  #away(): Held[] {
    return [...this.#models.values()].filter(({ offload, device }) => offload === true && device !== "cpu");
  }

  /**
   * @param placement undefined: wherever another reward has it, and no opinion on offloading
   * @param load to the place where it waits, and told the one where it computes
   */
  #held<M extends SharedModel>(
    kind: string,
    folder: string,
    placement: Placement | undefined,
    load: (place: Place, home: Place) => M,
  ): M {
    const what = JSON.stringify([kind, folder]);
    if (placement === undefined) {
      const anywhere = [...this.#models.values()].find((held) => held.what === what);
      if (anywhere !== undefined) return anywhere.model as M;
    }
    const { device: wanted, dtype, offload } = placement ?? USUAL_PLACEMENT;
    const device = wanted ?? this.device;
    const key = JSON.stringify([what, device, dtype]);
    const known = this.#models.get(key);
    if (known !== undefined) {
      if (placement !== undefined) this.#agree(known, offload);
      return known.model as M;
    }
    const isAway = offload && this.#users === 0;
    const model = load({ device: isAway ? "cpu" : device, dtype }, { device, dtype });
    this.#models.set(key, { model, what, device, offload: placement && offload });
    return model;
  }

  /** One more opinion on offloading: all must be for it. */
  #agree(held: Held, offload: boolean): void {
    const before = held.offload;
    held.offload = (before ?? true) && offload;
    if (this.#users > 0 || held.offload === (before ?? false)) return;
    held.model.moveTo(held.offload ? "cpu" : held.device);
  }
}
