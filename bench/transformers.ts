/**
 * Processor time of narrow SD3 transformers beside the embedded world's UNet, on latents of 8 x 8 x 8: what one costs
 * decides its size (scripts/pretrain/recipe.ts). All take turns, so that a busy machine slows all; medians count.
 *
 *     node dist/bench/transformers.js [--rounds 5] [--batch 36] [--train 12] [WIDTHxDEPTHpPATCHtTOKENS ...]
 *
 * TOKENS are those of the text. Heads are 32 wide and normalise queries and keys; with "-" at the end they do not.
 */
import { parseArgs } from "node:util";
import { TRANSFORMER_CONFIG, UNET_CONFIG } from "../scripts/pretrain/recipe.js";
import { SD3Transformer2DModel, UNet2DConditionModel } from "../src/models/index.js";
import { Generator, mseLoss, noGrad, randn, setNumThreads, tidy, type Tensor } from "../src/torch/index.js";
import { secondsBy } from "./machine.js";

const DEFAULTS = ["192x4p2t32", "192x4p2t32-", "192x4p2t16", "224x3p2t32", "160x6p2t32", "128x9p2t32", "128x4p1t32"];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "5" },
    batch: { type: "string", default: "36" },
    train: { type: "string", default: "12" },
  },
});
setNumThreads(1);
const generator = new Generator(1);
const normal = (...shape: number[]): Tensor => randn(shape, { generator });

/** A denoiser and what it took, in seconds. */
class Candidate {
  readonly forward: number[] = [];
  readonly training: number[] = [];

  constructor(
    readonly name: string,
    readonly model: SD3Transformer2DModel | UNet2DConditionModel,
    readonly tokens: number,
  ) {}

  predict(batch: number): Tensor {
    const sample = normal(batch, 8, 8, 8).contiguous({ memoryFormat: "channelsLast" });
    const text = normal(batch, this.tokens, 128);
    if (this.model instanceof UNet2DConditionModel) return this.model.forward(sample, 500, text);
    return this.model.forward(sample, 500, { encoderHiddenStates: text, pooledProjections: normal(batch, 128) });
  }

  turn(batch: number, trained: number): void {
    this.model.requiresGrad_(false);
    this.forward.push(cpuSeconds(() => noGrad(() => tidy(() => void this.predict(batch)))));
    this.model.requiresGrad_(true);
    const learn = (): void => {
      const output = this.predict(trained);
      mseLoss(output, normal(...output.shape)).backward();
    };
    this.training.push(cpuSeconds(() => tidy(learn)));
  }
}

function cpuSeconds(work: () => void): number {
  const start = secondsBy("cpu");
  work();
  return secondsBy("cpu") - start;
}

function transformer(name: string): Candidate {
  const parts = /^(\d+)x(\d+)p([12])t(\d+)(-?)$/.exec(name);
  if (parts === null) throw new Error(`Expected WIDTHxDEPTHpPATCHtTOKENS but received ${name}`);
  const [width, depth, patch, tokens] = parts.slice(1, 5).map(Number) as [number, number, number, number];
  const config = {
    ...TRANSFORMER_CONFIG,
    ...{ num_layers: depth, num_attention_heads: width / 32, attention_head_dim: 32, caption_projection_dim: width },
    ...{ patch_size: patch, pos_embed_max_size: 8 / patch, qk_norm: parts[5] === "-" ? null : ("rms_norm" as const) },
  };
  return new Candidate(name, SD3Transformer2DModel.fromConfig(config, { generator }), tokens);
}

const unet = new Candidate("UNet", UNet2DConditionModel.fromConfig(UNET_CONFIG, { generator }), 16);
const all = [unet, ...(positionals.length > 0 ? positionals : DEFAULTS).map(transformer)];
// The first turn is not counted.
for (let round = 0; round <= Number(values.rounds); round++) {
  for (const candidate of all) candidate.turn(Number(values.batch), Number(values.train));
}
const median = (seconds: readonly number[]): number =>
  seconds.slice(1).sort((a, b) => a - b)[Math.floor((seconds.length - 1) / 2)]!;
const rows = all.map((one) => {
  const compared = (of: (candidate: Candidate) => number[]): string =>
    `${(1e3 * median(of(one))).toFixed(0)} ms (${(median(of(one)) / median(of(unet))).toFixed(2)})`;
  return {
    denoiser: one.name,
    parameters: `${(one.model.parameterCount() / 1e6).toFixed(2)} M`,
    [`forward, ${values.batch}`]: compared(({ forward }) => forward),
    [`forward and backward, ${values.train}`]: compared(({ training }) => training),
  };
});
console.table(rows);
