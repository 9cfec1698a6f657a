/**
 * An objective without log-probs: it learns from the final latents alone, as models are pre-trained. Start from it for
 * objectives on the forward process.
 *
 *     b2 run runs/awr --preset demo --plugin dist/examples/plugins/objective.js --set objective.name=awr
 *
 * Advantage-weighted regression (Peng et al. 2019, arXiv 1910.00177) on the denoising loss: an image is noised anew and
 * the model trained to denoise it, the more the better the image was.
 */
import { registerObjective, tidy, toFloats, z, type LatentBatch, type ObjectiveResult } from "b2-diffurl";

const options = z.object({
  temperature: z
    .number()
    .gt(0)
    .nullable()
    .default(null)
    .describe(
      "b of the weights exp(A / b), which are positive always. null weights with A itself, so that what was worse than expected is unlearnt.",
    ),
});

/** loss = mean w ||target - prediction||^2, w = A or exp(A / b); the norm is the mean over latent dimensions. */
function loss(
  { prediction, target, advantage }: LatentBatch,
  { temperature }: z.output<typeof options>,
): ObjectiveResult {
  return tidy(() => {
    const error = target.sub(prediction).square().flatten(1).mean({ dim: 1 }); // [B]
    const weight = temperature === null ? advantage : advantage.div(temperature).exp(); // [B]
    // One number a row for each metric: the trainer takes the means of a whole update.
    return { loss: weight.mul(error).mean(), metrics: { error: toFloats(error), weight: toFloats(weight) } };
  });
}

registerObjective({
  name: "awr",
  summary: "Advantage-weighted regression: the denoising loss of the sampled images, weighted by their advantages",
  learnsFrom: "final-latents",
  options,
  loss,
});
