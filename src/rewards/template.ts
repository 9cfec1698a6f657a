/**
 * A reward of your own: it gives each finished image one number, and higher is better. Change it as you like.
 *
 * Look at what it says of images that you have, then train with it:
 *
 *     npx b2 score images --rewards FILE
 *     npx b2 run runs/mine --preset demo --set rewards=FILE
 *
 * With options, in a config file or on the command line:
 *
 *     --set 'rewards=[{ "name": "FILE", "options": { "channel": "green" } }]'
 */

import type { Reward, Tensor } from "b2-diffurl";

/** What a config may say under `options`. */
interface Options {
  channel?: string;
}

const CHANNELS = ["red", "green", "blue"];

/**
 * Opens the reward: called once, before the first image. Load here what takes long. It may be async. A second parameter
 * has the run's `device` and `runFolder`, and lends models (`clip(path)`).
 *
 * @param options of the config, {} if it has none
 */
export function open(options: Options): Reward {
  const { channel = "red" } = options;
  const chosen = CHANNELS.indexOf(channel);
  if (chosen < 0) throw new Error(`Expected red, green or blue for channel but received ${channel}`);

  return {
    /** True if you wait for a server or another thread: other rewards then compute meanwhile. */
    concurrent: false,

    /**
     * The scores of a batch. It may be async. An image's score must not depend on the other images. A third parameter
     * has `metadata`, for each image what the file of prompts says besides the text, and `signal`, which aborts when the
     * work is to stop.
     *
     * @param images [B, 3, H, W] in 0..1, on the run's device; not yours to change or to dispose of
     * @param prompts B texts
     * @returns B finite numbers
     */
    score(images: Tensor, prompts: string[]): number[] {
      const [, channels = 3, height = 0, width = 0] = images.shape;
      const pixels = images.toTypedArray(); // a copy: image by image, channel by channel, row by row
      const size = height * width;
      return prompts.map((_, image) => {
        const means = CHANNELS.map((_, channel) => {
          const start = (image * channels + channel) * size;
          let sum = 0;
          for (let i = start; i < start + size; i++) sum += Number(pixels[i]);
          return sum / size;
        });
        // How much more of the chosen channel there is than of all three: -2/3 to 2/3.
        return means[chosen]! - means.reduce((sum, mean) => sum + mean) / means.length;
      });
    },

    /** Called at the end: close what is open. */
    dispose() {
      // Nothing is open here.
    },
  };
}
