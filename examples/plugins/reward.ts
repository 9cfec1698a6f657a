/**
 * A reward with options: how much of an image is of a given colour. Start from it for whatever scores an image.
 *
 *     b2 run runs/blue --preset demo --plugin dist/examples/plugins/reward.js \
 *       --set 'rewards=[{"name":"colour","colour":"#0000ff"}]'
 */
import { registerReward, tidy, z, type Reward, type Tensor } from "b2-diffurl";
import { tensor } from "b2-diffurl/torch";

// Every option has a default or is optional, and a description: `b2 config --markdown` prints both.
const options = z.object({
  colour: z
    .string()
    .regex(/^#[0-9a-f]{6}$/i, "Expected a colour such as #ff8000")
    .default("#ff0000")
    .describe("The colour, as #rrggbb."),
  tolerance: z
    .number()
    .gt(0)
    .max(1)
    .default(0.3)
    .describe("How far off a pixel may be, channel by channel in 0..1, to count as 0.6 of one."),
});

class ColourReward implements Reward {
  readonly #colour: readonly number[];
  readonly #tolerance: number;

  constructor({ colour, tolerance }: z.output<typeof options>) {
    this.#colour = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16) / 255);
    this.#tolerance = tolerance;
  }

  /**
   * The share of the pixels that are of the colour, 0 to 1: each counts exp(-d^2 / 2 tolerance^2), d its distance.
   *
   * @param images [B, 3, H, W] in 0..1, on the device that the model computes on
   */
  score(images: Tensor): number[] {
    // A tidy frees everything that is made in it. toArray() waits for the device.
    return tidy(() => {
      const colour = tensor(this.#colour, { device: images.device }).view([1, 3, 1, 1]);
      const distance = images.sub(colour).square().mean({ dim: 1 }); // [B, H, W]
      const likeness = distance.mul(-1 / (2 * this.#tolerance ** 2)).exp();
      return likeness.mean({ dim: [1, 2] }).toArray();
    });
  }
}

registerReward({
  name: "colour",
  summary: "The share of the image that is of a colour, 0 to 1",
  cost: "nothing to speak of",
  options,
  open: (chosen) => new ColourReward(chosen),
});
