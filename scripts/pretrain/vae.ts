/**
 * Steps "vae" and "decoder": the autoencoder (Rombach et al., 2022, without their adversarial loss), learnt from fresh renders.
 *
 * The loss is the absolute and the squared error, the error of neighbouring pixels' differences (it keeps outlines
 * sharp, where Rombach et al. use a perceptual loss) and a slight pull of the latents towards a standard normal.
 *
 * First encoder and decoder together, until latents encode what is in an image and where; then the decoder alone. The
 * denoiser only needs the latents, so that the second part can run beside it.
 */
import { AutoencoderKL } from "../../src/models/index.js";
import { Generator, noGrad, randn, tidy, type Tensor } from "../../src/torch/index.js";
import { Random } from "../../src/world/index.js";
import { TRAINING, VAE_CONFIG, VAE_LOSS } from "./recipe.js";
import { train, type Draws } from "./training.js";
import {
  drawScenes,
  fromSigned,
  pipelineFolder,
  renderScenes,
  shortened,
  storeInHalf,
  toSigned,
  writeJson,
  type Workplace,
} from "./workplace.js";

export async function pretrainVae(workplace: Workplace): Promise<void> {
  const { seed, workFolder } = workplace;
  const recipe = { ...TRAINING.vae, steps: shortened(workplace, TRAINING.vae.steps) };
  const vae = AutoencoderKL.fromConfig(VAE_CONFIG, { generator: new Generator(seed) });
  const figures = await train({
    name: "vae",
    recipe,
    seed,
    parameters: vae.parameters(),
    checkpointFile: `${workFolder}/vae.safetensors`,
    loss: (batch, draws) => {
      const images = freshImages(workplace, batch, draws);
      const { mean, logvar } = vae.encode(images);
      const noise = randn(mean.shape, { generator: draws.generator });
      const decoded = vae.decode(mean.add(logvar.mul(0.5).exp().mul(noise)));
      const { loss, error } = pictureLoss(decoded, images);
      const kl = mean.square().add(logvar.exp()).sub(1).sub(logvar).mean().mul(0.5);
      return { loss: loss.add(kl.mul(VAE_LOSS.kl)), figures: { error, kl } };
    },
  });

  const { error, std } = measureVae(workplace, vae);
  // The denoiser is to see latents of variance one: diffusers' scaling_factor.
  const folder = pipelineFolder(workplace, "vae");
  const scaled = AutoencoderKL.fromConfig({ ...VAE_CONFIG, scaling_factor: 1 / std }, { generator: new Generator(0) });
  noGrad(() => {
    for (const [key, parameter] of scaled.parameters()) parameter.copy_(vae.parameters().get(key)!);
  });
  scaled.savePretrained(folder);
  storeInHalf(folder, "diffusion_pytorch_model");
  writeJson(`${folder}/metrics.json`, { training: { ...recipe, seed, ...figures }, meanAbsoluteError: error });
  console.log(`vae: mean absolute error ${error.toFixed(4)} of 1 on fresh renders`);
  vae.dispose();
  scaled.dispose();
}

export async function pretrainDecoder(workplace: Workplace): Promise<void> {
  const { workFolder } = workplace;
  const seed = workplace.seed + SEED_OFFSET;
  const recipe = { ...TRAINING.decoder, steps: shortened(workplace, TRAINING.decoder.steps) };
  const folder = pipelineFolder(workplace, "vae");
  const vae = AutoencoderKL.fromPretrained(folder);
  const before = measureVae(workplace, vae).error;
  const figures = await train({
    name: "decoder",
    recipe,
    seed,
    parameters: new Map([...vae.parameters()].filter(([key]) => /^decoder|^post_quant_conv/.test(key))),
    checkpointFile: `${workFolder}/decoder.safetensors`,
    loss: (batch, draws) => {
      const images = freshImages(workplace, batch, draws);
      const latents = noGrad(() =>
        tidy(() => {
          const { mean, logvar } = vae.encode(images);
          return mean.add(
            logvar
              .mul(0.5)
              .exp()
              .mul(randn(mean.shape, { generator: draws.generator })),
          );
        }),
      );
      const { loss, error } = pictureLoss(vae.decode(latents), images);
      return { loss, figures: { error } };
    },
  });
  const { error } = measureVae(workplace, vae);
  vae.savePretrained(folder);
  storeInHalf(folder, "diffusion_pytorch_model");
  const encoderAndDecoder = { ...TRAINING.vae, seed: workplace.seed, meanAbsoluteError: before };
  const decoderAlone = { ...recipe, seed, ...figures };
  writeJson(`${folder}/metrics.json`, { training: { encoderAndDecoder, decoderAlone }, meanAbsoluteError: error });
  console.log(`decoder: mean absolute error ${before.toFixed(4)} before, ${error.toFixed(4)} after, on fresh renders`);
  vae.dispose();
}

/** Another seed, so that the second part trains the decoder on other images than the first. */
const SEED_OFFSET = 31;

function freshImages(workplace: Workplace, batch: number, { random }: Draws): Tensor {
  return toSigned(renderScenes(workplace, drawScenes(batch, random), random));
}

/** @returns the loss, and the mean absolute error of pixels in 0..1 */
function pictureLoss(decoded: Tensor, images: Tensor): { loss: Tensor; error: Tensor } {
  const difference = decoded.sub(images);
  const absolute = difference.abs().mean();
  const squared = difference.square().mean().mul(VAE_LOSS.squared);
  const edges = neighbourDifferences(difference).mul(VAE_LOSS.edges);
  return { loss: absolute.add(squared).add(edges), error: absolute.div(2) };
}

/** Mean absolute difference between the errors of neighbours, across and down. */
function neighbourDifferences(error: Tensor): Tensor {
  const size = error.size(-1);
  const across = error.slice(3, 1).sub(error.slice(3, 0, size - 1));
  const down = error.slice(2, 1).sub(error.slice(2, 0, size - 1));
  return across.abs().mean().add(down.abs().mean());
}

/** On images that were probably not in training: the error in 0..1, and the standard deviation of latents. */
function measureVae(workplace: Workplace, vae: AutoencoderKL): { error: number; std: number } {
  const random = new Random(workplace.seed + 1_000_000_007);
  const result = { error: 0, std: 0 };
  const rounds = 4;
  const each = shortened(workplace, 256);
  for (let round = 0; round < rounds; round++) {
    noGrad(() =>
      tidy(() => {
        const images = renderScenes(workplace, drawScenes(each, random), random);
        const { mean } = vae.encode(toSigned(images));
        result.error += fromSigned(vae.decode(mean)).sub(images).abs().mean().item() / rounds;
        result.std += mean.std().item() / rounds;
      }),
    );
  }
  return result;
}
