/**
 * The library behind the command line: train a text-to-image diffusion model with a reward of your own.
 *
 *     const trainer = await Trainer.open("runs/mine", presets.b2(), { reward });
 *     await trainer.runAll();
 *
 * Tensors and operators have an entry of their own, `b2-diffurl/torch`; the few that a reward needs are here as well.
 */
export * from "./b2/index.js";
export { StableDiffusionPipeline } from "./pipeline/index.js";
export type { Reward } from "./rewards/index.js";
export { RunReader, type Metrics, type SampleLine } from "./runs/index.js";
export { type Device, type DType, noGrad, Tensor, tidy } from "./torch/index.js";
