/**
 * Trains with a reward of one's own: an async function of images and prompts that gives each image a number.
 *
 *     npm run build && node dist/examples/custom-reward.js runs/red
 *
 * The reward here is how much redder than green and blue an image is, so success is visible at a glance. Anything
 * that gives numbers will do: another model, a web service, a person at a keyboard.
 */
import { presets, resolveConfig, tidy, Trainer, type ConfigInput, type Tensor } from "b2-diffurl";

/** Redness of each image. `images` is [B, 3, H, W] in 0..1, and the caller's to dispose of. */
// eslint-disable-next-line @typescript-eslint/require-await -- a real one has something to wait for
async function redness(images: Tensor, prompts: readonly string[]): Promise<number[]> {
  const scores = tidy(() => {
    const [red, green, blue] = images.mean({ dim: [2, 3] }).chunk(3, 1); // [B, 1] each
    return red!.sub(green!.add(blue!).div(2)).flatten().toArray();
  });
  return prompts.map((_, i) => scores[i]!);
}

/** Trains a model to paint red, and returns the mean reward of every stage. */
export async function trainRedness(folder: string, values: ConfigInput = {}): Promise<number[]> {
  const config = resolveConfig(presets.demo, { stages: 10 }, values);
  const trainer = await Trainer.open(folder, config, { reward: redness });
  try {
    await trainer.runAll({
      after: ({ stage, rewardMean }) => console.log(`stage ${stage}: mean redness ${rewardMean.toFixed(4)}`),
    });
    return trainer.run.metrics().map(({ rewardMean }) => rewardMean);
  } finally {
    trainer.dispose();
  }
}

if (process.argv[1] === import.meta.filename) {
  const [folder = "runs/red", ...others] = process.argv.slice(2);
  if (folder.startsWith("-") || others.length > 0) console.log("Usage: node dist/examples/custom-reward.js [folder]");
  else await trainRedness(folder);
}
