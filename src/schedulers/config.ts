/**
 * Reads `scheduler_config.json` for DDIM, with the defaults of diffusers' DDIMScheduler.
 *
 * Published models often name another sampler (PNDM, Euler). Their noise schedule holds for DDIM too; keys that only
 * concern the other sampler are ignored, by name. Every other key, and every value that this code does not support, is
 * an error.
 */
import { showProblems } from "../base/show.js";
import {
  between,
  boolean,
  isFlowMatching,
  oneOf,
  problemsOf,
  samplerOf,
  SchedulerConfigError,
  whole,
  type Rule,
} from "./rules.js";

/** DDIM's config under diffusers' keys. */
export interface DDIMSchedulerConfig {
  readonly num_train_timesteps: number;
  readonly beta_start: number;
  readonly beta_end: number;
  readonly beta_schedule: "linear" | "scaled_linear" | "squaredcos_cap_v2";
  readonly clip_sample: boolean;
  readonly clip_sample_range: number;
  readonly set_alpha_to_one: boolean;
  readonly steps_offset: number;
  readonly prediction_type: "epsilon" | "v_prediction" | "sample";
  readonly timestep_spacing: "leading" | "linspace" | "trailing";
  /** Whether the last timestep is pure noise. */
  readonly rescale_betas_zero_snr: boolean;
}

const DEFAULTS: DDIMSchedulerConfig = {
  num_train_timesteps: 1000,
  beta_start: 0.0001,
  beta_end: 0.02,
  beta_schedule: "linear",
  clip_sample: true,
  clip_sample_range: 1,
  set_alpha_to_one: true,
  steps_offset: 0,
  prediction_type: "epsilon",
  timestep_spacing: "leading",
  rescale_betas_zero_snr: false,
};

const RULES: Readonly<Record<keyof DDIMSchedulerConfig, Rule>> = {
  num_train_timesteps: whole(1, 1e6),
  beta_start: between(0, 1),
  beta_end: between(0, 1),
  beta_schedule: oneOf("linear", "scaled_linear", "squaredcos_cap_v2"),
  clip_sample: boolean,
  clip_sample_range: between(0, Infinity),
  set_alpha_to_one: boolean,
  steps_offset: whole(0, 1e6),
  prediction_type: oneOf("epsilon", "v_prediction", "sample"),
  timestep_spacing: oneOf("leading", "linspace", "trailing"),
  rescale_betas_zero_snr: boolean,
};

/** Unsupported features, each with the value that turns it off. */
const OFF: Readonly<Record<string, Rule>> = {
  trained_betas: oneOf(null),
  timestep_values: oneOf(null),
  thresholding: oneOf(false),
  // EDM and flow-matching models take noise levels instead of discrete timesteps.
  timestep_type: oneOf("discrete"),
  use_flow_sigmas: oneOf(false),
  use_dynamic_shifting: oneOf(false),
  shift_terminal: oneOf(null),
};

/** Keys that do not concern DDIM: those of other samplers, and parameters of unsupported features that are off. */
const OTHER_SAMPLERS = new Set([
  ...["dynamic_thresholding_ratio", "sample_max_value", "skip_prk_steps", "interpolation_type"],
  ...["use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "sigma_min", "sigma_max", "final_sigmas_type"],
  ...["algorithm_type", "solver_order", "solver_type", "lower_order_final", "euler_at_final", "use_lu_lambdas"],
  ...["lambda_min_clipped", "variance_type", "flow_shift", "time_shift_type", "original_inference_steps"],
  ...["timestep_scaling", "predict_x0", "disable_corrector", "solver_p", "noise_sampler_seed", "predictor_order"],
  ...["corrector_order", "tau_func"],
]);

/**
 * @param source what to name in the error: a file, or the scheduler
 * @throws SchedulerConfigError with a sentence for every key at fault
 */
export function parseSchedulerConfig(config: object, source = "DDIMScheduler"): DDIMSchedulerConfig {
  const sampler = samplerOf(config);
  if (isFlowMatching(sampler)) {
    throw new SchedulerConfigError(
      `${source}: Expected the noise schedule of a diffusion model but received a ${sampler}; scheduler.name=flow-match reads it`,
    );
  }
  const problems = problemsOf(config, { ...RULES, ...OFF }, OTHER_SAMPLERS);
  const given = Object.entries(config).filter(([key]) => Object.hasOwn(RULES, key));
  const honoured: Record<string, unknown> = {
    ...DEFAULTS,
    clip_sample: clipsByDefault(sampler),
    ...Object.fromEntries(given),
  };
  if (honoured.rescale_betas_zero_snr === true && honoured.prediction_type === "epsilon") {
    // At a timestep of pure noise, predicting epsilon would make x_0 = 0 / 0.
    problems.push(
      'Expected "v_prediction" or "sample" for prediction_type with rescale_betas_zero_snr but received "epsilon"',
    );
  }
  const { steps_offset: offset, num_train_timesteps: trained } = honoured as { [key: string]: number };
  if (problems.length === 0 && offset! >= trained!) {
    problems.push(`Expected a steps_offset below num_train_timesteps, ${trained}, but received ${offset}`);
  }
  if (problems.length > 0) throw new SchedulerConfigError(`${source}: ${showProblems(problems)}`);
  return honoured as unknown as DDIMSchedulerConfig;
}

/** Only diffusers' DDIM and DDPM clip by default; other samplers never clip, so their configs must not turn clipping on. */
const clipsByDefault = (sampler = "DDIMScheduler"): boolean => /^DD[IP]M/.test(sampler);
