/**
 * Step 1: the autoencoder (Rombach et al., 2022, without their adversarial loss), learnt from fresh renders.
 *
 * The loss is the absolute and the squared error, the error of neighbouring pixels' differences (it keeps outlines
 * sharp, where Rombach et al. use a perceptual loss) and a slight pull of the latents towards a standard normal.
 */
import { AutoencoderKL } from "../../src/models/index.js";
import { Generator, noGrad, randn, tidy, type Tensor } from "../../src/torch/index.js";
import { Random } from "../../src/world/index.js";
import { TRAINING, VAE_CONFIG, VAE_LOSS } from "./recipe.js";
import { train } from "./training.js";
import {
  drawScenes,
  fromSigned,
  pipelineFolder,
  renderScenes,
  toSigned,
  writeJson,
  type Workplace,
} from "./workplace.js";

export async function pretrainVae(workplace: Workplace): Promise<void> {
  const { seed, scale, workFolder } = workplace;
  const recipe = { ...TRAINING.vae, steps: Math.ceil(TRAINING.vae.steps * scale) };
  const vae = AutoencoderKL.fromConfig(VAE_CONFIG, { generator: new Generator(seed) });
  const figures = await train({
    name: "vae",
    recipe,
    seed,
    parameters: vae.parameters(),
    checkpointFile: `${workFolder}/vae.safetensors`,
    loss: (batch, { random, generator }) => {
      const images = toSigned(renderScenes(workplace, drawScenes(batch, random), random));
      const { mean, logvar } = vae.encode(images);
      const noise = randn(mean.shape, { generator });
      const decoded = vae.decode(mean.add(logvar.mul(0.5).exp().mul(noise)));
      const error = decoded.sub(images);
      const absolute = error.abs().mean();
      const squared = error.square().mean();
      const edges = neighbourDifferences(error);
      const kl = mean.square().add(logvar.exp()).sub(1).sub(logvar).mean().mul(0.5);
      const loss = absolute.add(squared.mul(VAE_LOSS.squared)).add(edges.mul(VAE_LOSS.edges)).add(kl.mul(VAE_LOSS.kl));
      return { loss, figures: { error: absolute.div(2), kl } };
    },
  });

  const { error, std } = measure(workplace, vae);
  // The denoiser is to see latents of variance one: diffusers' scaling_factor.
  const folder = pipelineFolder(workplace, "vae");
  const scaled = AutoencoderKL.fromConfig({ ...VAE_CONFIG, scaling_factor: 1 / std }, { generator: new Generator(0) });
  noGrad(() => {
    for (const [key, parameter] of scaled.parameters()) parameter.copy_(vae.parameters().get(key)!);
  });
  scaled.savePretrained(folder);
  writeJson(`${folder}/metrics.json`, {
    training: { ...recipe, seed, ...figures },
    meanAbsoluteError: error,
    latentStd: std,
  });
  console.log(`vae: mean absolute error ${error.toFixed(4)} of 1 on fresh renders`);
  vae.dispose();
  scaled.dispose();
}

/** Mean absolute difference between what neighbours' errors are, across and down. */
function neighbourDifferences(error: Tensor): Tensor {
  const size = error.size(-1);
  const across = error.slice(3, 1).sub(error.slice(3, 0, size - 1));
  const down = error.slice(2, 1).sub(error.slice(2, 0, size - 1));
  return across.abs().mean().add(down.abs().mean());
}

/** On pictures that training is unlikely to have seen: the error in 0..1, and how far latents spread. */
function measure(workplace: Workplace, vae: AutoencoderKL): { error: number; std: number } {
  const random = new Random(workplace.seed + 1_000_000_007);
  const result = { error: 0, std: 0 };
  const rounds = 4;
  for (let round = 0; round < rounds; round++) {
    noGrad(() =>
      tidy(() => {
        const images = renderScenes(workplace, drawScenes(256, random), random);
        const { mean } = vae.encode(toSigned(images));
        result.error += fromSigned(vae.decode(mean)).sub(images).abs().mean().item() / rounds;
        result.std += mean.std().item() / rounds;
      }),
    );
  }
  return result;
}
