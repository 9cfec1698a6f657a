/**
 * Step "flow": the world's second denoiser, a narrow Stable Diffusion 3. Text encoder and transformer together on flow
 * matching: predict the velocity from latents to noise, at timesteps that are logit-normal ("Scaling Rectified Flow
 * Transformers", arXiv 2403.03206, section 3.1). Latents, captions and their faults are the other denoiser's.
 *
 * There is one text encoder. In the place of T5's states the transformer sees zeros, as many as CLIP has tokens, both here
 * and when the family draws. The VAE is that of the other model: the index names it, so that it is stored once.
 */
import { CLIPTextModelWithProjection, SD3Transformer2DModel } from "../../src/models/index.js";
import { encodeSD3Text, Loadable } from "../../src/pipeline/index.js";
import { FlowMatchScheduler } from "../../src/schedulers/index.js";
import { CLIPTokenizer } from "../../src/tokenizer/index.js";
import { Generator, mseLoss, noGrad, randn, sigmoid, type Tensor } from "../../src/torch/index.js";
import { vocabulary } from "../../src/world/index.js";
import { drawExamples, latentPool } from "./latents.js";
import { FLOW_SCHEDULER_CONFIG, FLOW_TEXT_ENCODER_CONFIG, MAX_CAPTION_TOKENS, TRAINING, TRANSFORMER_CONFIG } from "./recipe.js"; // prettier-ignore
import { learnTokenizer, saveTokenizer, withTokenizer } from "./tokenizer.js";
import { train } from "./training.js";
import { flowFolder, leaveOutDefaults, shortened, storeInHalf, writeJson, type Workplace } from "./workplace.js";

/**
 * Layers that begin at zero, so that every block begins as the identity and the first prediction is 0 ("adaLN-Zero",
 * arXiv 2212.09748, section 3.2).
 */
const ZERO_AT_FIRST = /(^|\.)(norm1|norm1_context|norm_out)\.linear\.|^proj_out\./;

/** Does not learn. */
const POSITIONS = "pos_embed.pos_embed";

export async function pretrainFlow(workplace: Workplace): Promise<void> {
  const { seed, workFolder, device } = workplace;
  const recipe = { ...TRAINING.flow, steps: shortened(workplace, TRAINING.flow.steps) };
  const folder = (part: string) => flowFolder(workplace, part);
  const files = learnTokenizer(vocabulary());
  saveTokenizer(files, folder("tokenizer"), MAX_CAPTION_TOKENS);
  writeJson(`${folder("scheduler")}/scheduler_config.json`, FLOW_SCHEDULER_CONFIG);
  const tokenizer = CLIPTokenizer.fromPretrained(folder("tokenizer"));
  const scheduler = FlowMatchScheduler.fromPretrained(folder("scheduler"));

  const generator = new Generator(seed);
  const transformer = SD3Transformer2DModel.fromConfig(TRANSFORMER_CONFIG, { generator, device });
  for (const [key, weight] of transformer.parameters()) if (ZERO_AT_FIRST.test(key)) noGrad(() => weight.mul_(0));
  const config = withTokenizer(FLOW_TEXT_ENCODER_CONFIG, files);
  const encoder = CLIPTextModelWithProjection.fromConfig(config, { generator, device });
  const parts = {
    clips: [{ tokenizer, encoder: new Loadable(() => encoder) }, undefined],
    t5: undefined,
    transformer,
  } as const;
  const learnt = [...transformer.parameters()].filter(([key]) => key !== POSITIONS);
  const prefixed = (prefix: string, entries: Iterable<readonly [string, Tensor]>) =>
    [...entries].map(([key, t]) => [prefix + key, t] as const);

  const pool = await latentPool(workplace);
  pool.latents.moveTo_(device);
  const figures = await train({
    name: "flow",
    recipe,
    seed,
    parameters: new Map([...prefixed("transformer.", learnt), ...prefixed("text.", encoder.parameters())]),
    checkpointFile: `${workFolder}/flow.safetensors`,
    loss: (batch, draws) => {
      const { captions, clean } = drawExamples(pool, batch, draws);
      const timesteps = logitNormalTimesteps(batch, draws.generator, scheduler.numTrainTimesteps);
      const noise = randn(clean.shape, { generator: draws.generator }).to({ device });
      const noisy = scheduler.addNoise(clean, noise, timesteps);
      // Without T5 its number of tokens has no effect.
      const { states } = encodeSD3Text(parts, captions, { dtype: "float32", device, maxSequenceLength: 1 });
      const text = { encoderHiddenStates: states.hiddenStates, pooledProjections: states.pooled! };
      return { loss: mseLoss(transformer.forward(noisy, timesteps, text), scheduler.target(clean, noise)) };
    },
  });
  transformer.savePretrained(folder("transformer"));
  encoder.savePretrained(folder("text_encoder"));
  storeInHalf(folder("transformer"), "diffusion_pytorch_model");
  storeInHalf(folder("text_encoder"), "model");
  leaveOutDefaults(folder("text_encoder"));
  writeJson(`${folder("transformer")}/metrics.json`, { training: { ...recipe, seed, ...figures } });
  writeJson(`${folder("")}/model_index.json`, {
    _class_name: "StableDiffusion3Pipeline",
    scheduler: ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    text_encoder: ["transformers", "CLIPTextModelWithProjection"],
    text_encoder_2: [null, null],
    text_encoder_3: [null, null],
    tokenizer: ["transformers", "CLIPTokenizer"],
    tokenizer_2: [null, null],
    tokenizer_3: [null, null],
    transformer: ["diffusers", "SD3Transformer2DModel"],
    vae: ["diffusers", "AutoencoderKL", { pretrained_model_name_or_path: "../emoji", subfolder: "vae" }],
  });
  for (const model of [transformer, encoder]) model.dispose();
  pool.latents.dispose();
}

/** Timesteps whose logit is standard normal as a share of all. */
function logitNormalTimesteps(count: number, generator: Generator, trained: number): number[] {
  return sigmoid(randn([count], { generator }))
    .mul(trained)
    .toArray();
}
