/**
 * What learns in a run, and what a stage leaves of it in the run folder: weights, the optimiser's state, the weights that
 * follow. Every worker has one; that of rank 0 is saved.
 */
import type { Group } from "../distributed/index.js";
import { AdamW, AdamW8bit, GradScaler } from "../optim/index.js";
import type { RunReader, RunWriter } from "../runs/index.js";
import { loadSafetensors, saveSafetensors } from "../safetensors/index.js";
import { tidy } from "../torch/index.js";
import type { Config } from "./config/schema.js";
import { Followers, type FollowerPaths } from "./policy/followers.js";
import type { Policy } from "./policy/policy.js";
import type { Trainable } from "./policy/trainable.js";
import { GradientSum } from "./update/gradients.js";

/** Owns the optimiser's state and the weights that follow: call `dispose`. */
export class Learner {
  readonly optimizer: AdamW;
  readonly scaler: GradScaler;
  readonly followers: Followers;
  readonly gradients: GradientSum;
  readonly #trainable: Trainable;
  readonly #weights: "lora" | "denoiser";

  /** @throws TypeError for a policy that does not learn */
  constructor(policy: Policy, config: Pick<Config, "train" | "objective">, workers: Group) {
    if (policy.trainable === undefined) throw new TypeError("Expected a policy that learns");
    const { learningRate: lr, adamBeta1, adamBeta2, adamEpsilon: eps, weightDecay, ...train } = config.train;
    const Optimizer = train.use8bitAdam ? AdamW8bit : AdamW;
    this.optimizer = new Optimizer(policy.parameters, { lr, betas: [adamBeta1, adamBeta2], eps, weightDecay });
    this.scaler = new GradScaler({ enabled: policy.model.computeDtype === "float16" });
    this.followers = new Followers(policy.trainable, config);
    this.gradients = new GradientSum(policy.parameters.values(), workers);
    this.#trainable = policy.trainable;
    this.#weights = train.parameters === "lora" ? "lora" : "denoiser";
  }

  /** Writes all that the next stage begins with. */
  save(run: RunWriter, stage: number): void {
    this.#trainable.save(run.stagePath(stage, this.#weights));
    this.followers.save(followerPaths(run, stage));
    tidy(() => {
      const state = new Map([...this.optimizer.state(), ...this.scaler.state(), ...this.followers.state()]);
      saveSafetensors(run.stagePath(stage, "optimizer"), state);
    });
  }

  /** Loads what `save` wrote. @throws InputError naming the file and every key at fault */
  load(run: RunReader, stage: number): void {
    this.#trainable.load(run.stagePath(stage, this.#weights));
    this.followers.load(followerPaths(run, stage));
    const file = run.stagePath(stage, "optimizer");
    tidy(() => {
      const state = this.followers.loadState(this.scaler.loadState(loadSafetensors(file), file), file);
      this.optimizer.loadState(state, file);
    });
  }

  /** Loads what is evaluated alone. @throws InputError naming the file and every key at fault */
  loadResult(run: RunReader, stage: number): void {
    this.#trainable.load(run.stagePath(stage, this.#weights));
    this.followers.loadResult(followerPaths(run, stage));
  }

  /** Frees all but the policy's own weights. */
  dispose(): void {
    this.optimizer.dispose();
    this.gradients.dispose();
    this.followers.dispose();
  }
}

const followerPaths = (run: Pick<RunReader, "stagePath">, stage: number): FollowerPaths => ({
  ema: run.stagePath(stage, "ema"),
  sampler: run.stagePath(stage, "sampler"),
});
