/**
 * A scheduler: the ancestral sampler of DDPM (Ho et al. 2020, arXiv 2006.11239). Start from it for samplers of your own.
 *
 *     b2 run runs/ddpm --preset demo --plugin dist/examples/plugins/scheduler.js \
 *       --set scheduler.name=ddpm --set scheduler.variance=large
 *
 * The noise schedule, the timesteps and what a model predicts are DDIM's; only the step is its own. A sampler of another
 * kind implements the whole interface `Scheduler` instead.
 */
import {
  columnOf,
  DDIMScheduler,
  drawTransition,
  parseSchedulerConfig,
  registerScheduler,
  timestepsOf,
  z,
  type SchedulerStep,
  type Transition,
} from "b2-diffurl";

const options = z.object({
  variance: z
    .enum(["small", "large"])
    .default("small")
    .describe(
      "Of a step: `small` is the posterior's, which is DDIM's with eta 1; `large` is that of the forward process.",
    ),
});

type Variance = z.output<typeof options>["variance"];

/** The numbers of one row's step. */
interface Coefficients {
  /** Of x_0 in the posterior's mean. */
  readonly original: number;
  /** Of x_t in it. */
  readonly sample: number;
  readonly sigma: number;
}

export class DDPMScheduler extends DDIMScheduler {
  readonly #variance: Variance;

  constructor(config: DDIMScheduler["config"], variance: Variance = "small") {
    super(config);
    this.#variance = variance;
  }

  override toConfig(): ReturnType<DDIMScheduler["toConfig"]> {
    return { ...super.toConfig(), _class_name: "DDPMScheduler" };
  }

  /** x_{t-1} from N(c_0 x_0 + c_t x_t, sigma^2), eq. 7, with strides of several timesteps. */
  override step({ modelOutput, timestep, sample, numInferenceSteps, noise, prevSample }: SchedulerStep): Transition {
    const timesteps = timestepsOf(timestep, sample.size(0));
    const rows = timesteps.map((t) => this.#coefficients(t, numInferenceSteps));
    const sigma = rows.map((row) => row.sigma);
    const column = (values: readonly number[]) => columnOf(values, sample); // [B, 1, 1, 1]

    const { clip_sample: clips, clip_sample_range: range } = this.config;
    const x0 = this.originalSample(modelOutput, sample, timesteps);
    const predOriginalSample = clips ? x0.clamp({ min: -range, max: range }) : x0;
    const mean = predOriginalSample
      .mul(column(rows.map(({ original }) => original)))
      .add(sample.mul(column(rows.map((row) => row.sample))));

    return { ...drawTransition(mean, sigma, { noise, prevSample }), mean, sigma, predOriginalSample };
  }

  #coefficients(timestep: number, numInferenceSteps: number): Coefficients {
    // The step before timestep 0 is timestep 0 itself, as in DDIM here.
    const stride = Math.floor(this.config.num_train_timesteps / numInferenceSteps);
    const alphaBar = this.alphasCumprod[timestep]!;
    const alphaBarPrev = this.alphasCumprod[Math.max(timestep - stride, 0)]!;
    const alpha = alphaBar / alphaBarPrev;
    const beta = 1 - alpha;
    const posterior = ((1 - alphaBarPrev) / (1 - alphaBar)) * beta;
    return {
      original: (Math.sqrt(alphaBarPrev) * beta) / (1 - alphaBar),
      sample: (Math.sqrt(alpha) * (1 - alphaBarPrev)) / (1 - alphaBar),
      sigma: Math.sqrt(this.#variance === "small" ? posterior : beta),
    };
  }
}

registerScheduler({
  name: "ddpm",
  summary: "The ancestral sampler of DDPM",
  options,
  open: (config, { variance }, source) => new DDPMScheduler(parseSchedulerConfig(config, source), variance),
});
