/** Models that rewards and measures share during a run: CLIPs by folder. */
import type { Device } from "../torch/index.js";
import { Clip } from "./clip.js";
import type { RewardContext } from "./reward.js";

export class RewardResources implements RewardContext {
  readonly device: Device;
  readonly #resolve: (path: string) => string;
  readonly #clips = new Map<string, Clip>();

  /** @param resolve maps a path from a config to a local folder */
  constructor(device: Device, resolve: (path: string) => string = (path) => path) {
    this.device = device;
    this.#resolve = resolve;
  }

  clip(path: string): Clip {
    const folder = this.#resolve(path);
    const known = this.#clips.get(folder);
    if (known !== undefined) return known;
    const clip = Clip.fromPretrained(folder, { device: this.device });
    this.#clips.set(folder, clip);
    return clip;
  }

  /** Frees all models. */
  dispose(): void {
    for (const clip of this.#clips.values()) clip.dispose();
    this.#clips.clear();
  }
}
