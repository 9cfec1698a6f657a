/**
 * `scheduler_config.json` as DDIM reads it, with the defaults of diffusers' DDIMScheduler.
 *
 * Published models often name another sampler (PNDM, Euler). What they say about the noise schedule holds for DDIM
 * too; what only steers that other sampler is passed over, by name. Every other key, and every value that asks for
 * something the code does not have, is an error.
 */
import { InputError } from "../base/errors.js";

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
  /** The last timestep is noise alone. */
  readonly rescale_betas_zero_snr: boolean;
}

/** A scheduler config that asks for what the code does not have. */
export class SchedulerConfigError extends InputError {
  override readonly name = "SchedulerConfigError";
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

interface Rule {
  readonly expected: string;
  readonly holds: (value: unknown) => boolean;
}

const oneOf = (...values: unknown[]): Rule => ({
  expected:
    values.length === 1 ? JSON.stringify(values[0]) : `one of ${values.map((v) => JSON.stringify(v)).join(", ")}`,
  holds: (value) => values.includes(value),
});
const boolean = oneOf(true, false);
const whole = (from: number, to: number): Rule => ({
  expected: `a whole number from ${from} to ${to}`,
  holds: (value) => Number.isInteger(value) && (value as number) >= from && (value as number) <= to,
});
const between = (from: number, to: number): Rule => ({
  expected: `a number between ${from} and ${to}`,
  holds: (value) => typeof value === "number" && value > from && value < to,
});

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

/** Features that are not here, each with the value that leaves it off. */
const OFF: Readonly<Record<string, Rule>> = {
  trained_betas: oneOf(null),
  timestep_values: oneOf(null),
  thresholding: oneOf(false),
  // Noise levels instead of steps, as models of EDM's and flow matching's kind are asked for.
  timestep_type: oneOf("discrete"),
  use_flow_sigmas: oneOf(false),
  use_dynamic_shifting: oneOf(false),
  shift_terminal: oneOf(null),
};

/** Keys that say nothing about DDIM: other samplers' own, and the parameters of features that are off. */
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
  const rules = new Map(Object.entries({ ...RULES, ...OFF }));
  const problems: string[] = [];
  const honoured: Record<string, unknown> = { ...DEFAULTS, clip_sample: clipsByDefault(config) };
  for (const [key, value] of Object.entries(config)) {
    if (key.startsWith("_") || OTHER_SAMPLERS.has(key)) continue;
    const rule = rules.get(key);
    if (rule === undefined) problems.push(`Expected no key ${key} but received ${JSON.stringify(value)}`);
    else if (!rule.holds(value)) {
      problems.push(`Expected ${rule.expected} for ${key} but received ${JSON.stringify(value)}`);
    }
    if (Object.hasOwn(RULES, key)) honoured[key] = value;
  }
  if (honoured.rescale_betas_zero_snr === true && honoured.prediction_type === "epsilon") {
    // From noise alone, x_0 would be 0 divided by 0.
    problems.push(
      'Expected "v_prediction" or "sample" for prediction_type beside rescale_betas_zero_snr but received "epsilon"',
    );
  }
  if (problems.length > 0) throw new SchedulerConfigError(`${source}: ${problems.join("\n  ")}`);
  return honoured as unknown as DDIMSchedulerConfig;
}

/** Of diffusers' samplers these clip unless told not to. The others never do, so that a model saved with one is not to. */
function clipsByDefault(config: object): boolean {
  const { _class_name: sampler = "DDIMScheduler" } = config as { _class_name?: unknown };
  return typeof sampler === "string" && /^DD[IP]M/.test(sampler);
}
