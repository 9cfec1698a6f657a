/**
 * Flow matching (Lipman et al. 2022, arXiv 2210.02747; Esser et al. 2024, arXiv 2403.03206): x_t = (1 - sigma) x_0 +
 * sigma e with sigma = t / 1000, and a model that predicts the velocity e - x_0. Timesteps and sigmas are those of
 * diffusers' FlowMatchEulerDiscreteScheduler: with a constant shift, or with one that the model's family decides on.
 *
 * A step with noise is a policy, in one of two ways:
 *
 * - CPS (coefficients-preserving sampling, Wang and Yu 2025, arXiv 2509.05952): part of the noise that the model sees in
 *   x_t is replaced by fresh noise. Each x_t has exactly the noise that the model expects of it.
 * - Flow-SDE (Flow-GRPO, Liu et al. 2025, arXiv 2505.05470): the SDE with the marginals of the flow, by Euler-Maruyama.
 *
 * A step without noise is Euler's. Departures: every row of a batch may have its own timestep; the log-probability is the
 * whole log-density, averaged over the latent's dimensions.
 */
import { join } from "node:path";
import { z } from "zod";
import { readJsonObject, type JsonObject } from "../base/files.js";
import { showProblems } from "../base/show.js";
import type { Tensor } from "../torch/index.js";
import { columnOf, drawTransition, timestepsOf } from "./gaussian.js";
import {
  between,
  isFlowMatching,
  oneOf,
  problemsOf,
  samplerOf,
  SchedulerConfigError,
  whole,
  type Rule,
} from "./rules.js";
import {
  defineScheduler,
  type FamilySchedule,
  type Scheduler,
  type SchedulerStep,
  type Transition,
} from "./scheduler.js";

const { exp, fround, sin, sqrt, PI } = Math;

/** The config under diffusers' keys. */
export interface FlowMatchConfig {
  readonly num_train_timesteps: number;
  /** sigma becomes shift sigma / (1 + (shift - 1) sigma): over 1, more steps are noisy ones. */
  readonly shift: number;
  /** true: exp(mu) of the family's schedule is the shift instead. */
  readonly use_dynamic_shifting?: boolean;
}

/** How a step draws noise, see the top of this file. */
export type FlowNoise = "cps" | "flow-sde";

/** Options of the scheduler. */
export interface FlowMatchOptions {
  /** Default "cps". */
  readonly noise?: FlowNoise;
  /** Default eta of `step`: how much noise, 0 none. Default 0.7. */
  readonly eta?: number;
  /** Of the model's family. Default: sigmas evenly spaced down to the smallest one trained, and the config's shift. */
  readonly schedule?: FamilySchedule;
}

/** Input of a step. */
export interface FlowMatchStep extends SchedulerStep {
  /** Default: the scheduler's own. */
  readonly eta?: number;
}

/** x_{t-1} is normal: its mean is `sample` x_t + `velocity` v. */
interface Coefficients {
  readonly sample: number;
  readonly velocity: number;
  readonly sigma: number;
}

const RULES: Readonly<Record<string, Rule>> = {
  num_train_timesteps: whole(1, 1e6),
  // Beyond these bounds sigmas of float32 would be equal.
  shift: between(1e-3, 1e3),
};

/** Unsupported features, each with the value that turns it off. */
const OFF: Readonly<Record<string, Rule>> = {
  use_dynamic_shifting: oneOf(false),
  shift_terminal: oneOf(null),
  invert_sigmas: oneOf(false),
  use_karras_sigmas: oneOf(false),
  use_exponential_sigmas: oneOf(false),
  use_beta_sigmas: oneOf(false),
  stochastic_sampling: oneOf(false),
};

/** A shift that the family decides on, from the size of the image. */
const DYNAMIC: Readonly<Record<string, Rule>> = {
  use_dynamic_shifting: oneOf(true),
  time_shift_type: oneOf("exponential"),
};

/** What it may compute it from; of no concern here. */
const SIZES = ["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len"];

/** Flow matching with noise, see the top of this file. */
export class FlowMatchScheduler implements Scheduler {
  readonly config: FlowMatchConfig;
  readonly noise: FlowNoise;
  readonly eta: number;
  readonly schedule: FamilySchedule;

  constructor(config: FlowMatchConfig, { noise = "cps", eta = 0.7, schedule = {} }: FlowMatchOptions = {}) {
    this.config = config;
    this.noise = noise;
    this.eta = eta;
    this.schedule = schedule;
  }

  /** @throws SchedulerConfigError with a sentence for every key at fault */
  static fromConfig(config: object, source = "FlowMatchScheduler", options?: FlowMatchOptions): FlowMatchScheduler {
    const sampler = samplerOf(config);
    if (sampler !== undefined && !isFlowMatching(sampler)) {
      throw new SchedulerConfigError(
        `${source}: Expected a FlowMatchEulerDiscreteScheduler but received a ${sampler}; scheduler.name=ddim reads it`,
      );
    }
    const { num_train_timesteps = 1000, shift = 1, use_dynamic_shifting } = config as Partial<FlowMatchConfig>;
    const isDynamic = use_dynamic_shifting === true && options?.schedule?.mu !== undefined;
    const rules = { ...RULES, ...OFF, ...(isDynamic && DYNAMIC) };
    const problems = problemsOf(config, rules, new Set(isDynamic ? SIZES : [...SIZES, "time_shift_type"]));
    if (problems.length > 0) throw new SchedulerConfigError(`${source}: ${showProblems(problems)}`);
    // A saved model keeps them: at another size the shift is another one.
    const kept = isDynamic ? Object.entries(config).filter(([key]) => key in DYNAMIC || SIZES.includes(key)) : [];
    return new FlowMatchScheduler({ num_train_timesteps, shift, ...(Object.fromEntries(kept) as object) }, options);
  }

  /** @throws SchedulerConfigError naming the file, with a sentence for every key at fault */
  static fromPretrained(folder: string, options?: FlowMatchOptions): FlowMatchScheduler {
    const file = join(folder, "scheduler_config.json");
    return FlowMatchScheduler.fromConfig(readJsonObject(file, SchedulerConfigError), file, options);
  }

  toConfig(): JsonObject {
    return { _class_name: "FlowMatchEulerDiscreteScheduler", ...this.config };
  }

  get numTrainTimesteps(): number {
    return this.config.num_train_timesteps;
  }

  get maxInferenceSteps(): number {
    return this.config.num_train_timesteps;
  }

  /** 1000 sigma of each step, descending; not whole numbers. @throws RangeError for an impossible count */
  timesteps(numInferenceSteps: number): number[] {
    return this.sigmas(numInferenceSteps)
      .slice(0, -1)
      .map((sigma) => fround(sigma * this.numTrainTimesteps));
  }

  /** The share of noise before each step of a trajectory, and 0, where the last one ends. */
  sigmas(numInferenceSteps: number): number[] {
    const trained = this.numTrainTimesteps;
    if (!Number.isInteger(numInferenceSteps) || numInferenceSteps < 1 || numInferenceSteps > trained) {
      throw new RangeError(
        `Expected a whole number from 1 to ${trained} for numInferenceSteps but received ${numInferenceSteps}`,
      );
    }
    const shifted = this.#shiftOf(numInferenceSteps);
    const given = this.schedule.sigmas?.(numInferenceSteps);
    if (given !== undefined) return [...given.map((sigma) => shifted(sigma, fround)), 0];
    // diffusers shifts the last timestep twice: once among the trained ones, and with the spaced ones.
    const last = this.config.use_dynamic_shifting === true ? fround(1 / trained) : shifted(1 / trained, fround);
    const step = (last - 1) / Math.max(numInferenceSteps - 1, 1);
    const spaced = Array.from({ length: numInferenceSteps }, (_, i) => shifted(1 + i * step, (x) => x));
    return [...spaced.map(fround), 0];
  }

  /**
   * One transition x_t -> x_{t-1}, drawn from noise or given, with its log-probability.
   *
   * The last step of CPS ends at x_0 itself, whatever eta is: it draws no noise and has no density, so that its sigma and
   * its log-prob are 0.
   */
  step(options: FlowMatchStep): Transition {
    const { modelOutput, timestep, sample, numInferenceSteps, noise, prevSample, deterministic = false } = options;
    const { eta = this.eta } = options;
    const sigmas = this.sigmas(numInferenceSteps);
    const indices = this.#indicesOf(timestepsOf(timestep, sample.size(0)), numInferenceSteps);
    const rows = indices.map((i) => this.#coefficients(sigmas, i, deterministic ? 0 : eta));
    const column = (values: readonly number[]): Tensor => columnOf(values, sample);
    const velocity = modelOutput.to({ dtype: "float32" });
    const mean = sample
      .mul(column(rows.map((row) => row.sample)))
      .add(velocity.mul(column(rows.map((row) => row.velocity))));
    const sigma = rows.map((row) => row.sigma);
    const predOriginalSample = sample.sub(velocity.mul(column(indices.map((i) => sigmas[i]!))));
    return { ...drawTransition(mean, sigma, { noise, prevSample }), mean, sigma, predOriginalSample };
  }

  marginal(timestep: number): { signal: number; noise: number } {
    const last = this.numTrainTimesteps;
    if (!(timestep >= 0 && timestep <= last)) {
      throw new RangeError(`Expected a number from 0 to ${last} for a timestep but received ${timestep}`);
    }
    const sigma = timestep / last;
    return { signal: 1 - sigma, noise: sigma };
  }

  addNoise(x0: Tensor, noise: Tensor, timesteps: readonly number[]): Tensor {
    const rows = this.#marginals(x0, timesteps);
    const signal = columnOf(
      rows.map((row) => row.signal),
      x0,
    );
    return x0.mul(signal).add(noise.mul(this.#sigmaColumn(x0, timesteps)));
  }

  /** The velocity, at any timestep: e - x_0. */
  target(x0: Tensor, noise: Tensor): Tensor {
    return noise.sub(x0);
  }

  originalSample(modelOutput: Tensor, sample: Tensor, timesteps: readonly number[]): Tensor {
    return sample.sub(modelOutput.to({ dtype: "float32" }).mul(this.#sigmaColumn(sample, timesteps)));
  }

  /** How sigmas are shifted, with every result rounded as in diffusers, which does so in two ways. */
  #shiftOf(numInferenceSteps: number): (sigma: number, round: (x: number) => number) => number {
    const { shift, use_dynamic_shifting: isDynamic = false } = this.config;
    if (!isDynamic) {
      return (sigma, round) => {
        const own = round(sigma);
        return round(round(round(shift) * own) / round(1 + round(round(shift - 1) * own)));
      };
    }
    const dynamic = exp(this.schedule.mu!(numInferenceSteps));
    return (sigma, round) => {
      const own = round(dynamic);
      return round(own / round(own + round(round(1 / round(sigma)) - 1)));
    };
  }

  #coefficients(sigmas: readonly number[], index: number, eta: number): Coefficients {
    const [sigma, next] = [sigmas[index]!, sigmas[index + 1]!];
    const step = next - sigma;
    if (eta === 0) return { sample: 1, velocity: step, sigma: 0 };
    if (this.noise === "cps") {
      const std = next * sin((eta * PI) / 2);
      const kept = sqrt(Math.max(next ** 2 - std ** 2, 0)); // of the noise that the model sees, x_t + (1 - sigma) v
      return { sample: 1 - next + kept, velocity: kept * (1 - sigma) - (1 - next) * sigma, sigma: fround(std) };
    }
    // At pure noise the diffusion is infinite; the first step takes that of the next sigma.
    const variance = (eta ** 2 * sigma) / (1 - (sigma === 1 ? sigmas[1]! : sigma));
    const drift = variance / (2 * sigma);
    return {
      sample: 1 + drift * step,
      velocity: (1 + drift * (1 - sigma)) * step,
      sigma: fround(sqrt(variance * -step)),
    };
  }

  /** @throws RangeError for a timestep that is none of the trajectory's */
  #indicesOf(timesteps: readonly number[], numInferenceSteps: number): number[] {
    const known = this.timesteps(numInferenceSteps);
    return timesteps.map((timestep) => {
      const index = known.indexOf(timestep);
      if (index >= 0) return index;
      throw new RangeError(`Expected a timestep of ${numInferenceSteps} steps but received ${timestep}`);
    });
  }

  #marginals(x0: Tensor, timesteps: readonly number[]): { signal: number; noise: number }[] {
    return timestepsOf(timesteps, x0.size(0)).map((t) => this.marginal(t));
  }

  #sigmaColumn(x0: Tensor, timesteps: readonly number[]): Tensor {
    return columnOf(
      this.#marginals(x0, timesteps).map(({ noise }) => noise),
      x0,
    );
  }
}

/** The registry entry of flow matching. */
export const flowMatch = defineScheduler({
  name: "flow-match",
  summary: "Flow matching with noise, for models that predict a velocity: CPS or Flow-SDE",
  options: z.object({
    noise: z
      .enum(["cps", "flow-sde"])
      .default("cps")
      .describe(
        "How a step draws noise. `cps` replaces part of the noise in the latents by fresh noise (arXiv 2509.05952); its last step has none, and the long stride before it next to none, so that nothing is learnt from them: `interval.skipLast=2` leaves them out. `flow-sde` is the SDE of Flow-GRPO (arXiv 2505.05470).",
      ),
    eta: z
      .number()
      .min(0)
      .max(1)
      .default(0.7)
      .describe(
        "How much noise a step draws. With `cps` 1 replaces all of it; with `flow-sde` it scales the diffusion. 0 is Euler's method, which is for objectives on final latents only, since without noise there are no log-probs and branches of a root are equal.",
      ),
  }),
  deterministicSteps: true,
  isDeterministic: ({ eta }) => eta === 0,
  // CPS draws noise in proportion to the next sigma: 0.009 after the second-to-last step of SD3, and 0 after the last.
  quietSteps: ({ noise }) => (noise === "cps" ? 2 : 0),
  open: (config, options, source, schedule) =>
    FlowMatchScheduler.fromConfig(config, source, { ...options, ...(schedule && { schedule }) }),
});
