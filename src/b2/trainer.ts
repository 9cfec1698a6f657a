/**
 * B2-DiffuRL, stage by stage: sample -> score -> select -> update -> record.
 *
 * Source: "Towards Better Alignment: Training Diffusion Models with Reinforcement Learning Against Sparse Rewards"
 * (arXiv 2503.11240). Departure from its reference: one process holds the models through all stages, and the phases
 * hand each other tensors; the run folder is for resuming and for looking.
 */
import { AdamW, GradScaler } from "../optim/index.js";
import type { Reward } from "../rewards/index.js";
import { type Metrics, RunReader, RunWriter, stageFiles } from "../runs/index.js";
import { loadSafetensors, saveSafetensors } from "../safetensors/index.js";
import { tensor, tidy } from "../torch/index.js";
import { meanAndDeviation } from "../base/statistics.js";
import { advantages, type PromptRewards } from "./advantage.js";
import type { Config } from "./config.js";
import { InputError } from "../base/errors.js";
import type { Learner } from "./learner.js";
import { fetchModels } from "./model-folder.js";
import { Policy } from "./policy.js";
import { type Progress, silent, type RunContext } from "../base/progress.js";
import { promptsOfStage, readPromptLists } from "./prompts.js";
import { type BranchBatch, disposeRecord, type ScoredBatch, type TrainSet } from "./records.js";
import { differingKeys } from "./resolve-config.js";
import { openReward } from "./judges.js";
import { sampleBranches } from "./sampling.js";
import { type Seconds, stageMetrics } from "./stage-metrics.js";
import { trainedSteps } from "./schedule.js";
import { scoreBranches } from "./scoring.js";
import { selectSamples } from "./selection.js";
import { loadBranches, loadTrainSet, sampleLines, saveBranches, saveTrainSet } from "./storage.js";
import { type UpdateMetrics, updatePolicy } from "./update.js";

export interface TrainerOptions {
  /** Overrides the config's reward. */
  readonly reward?: Reward | undefined;
  readonly progress?: Progress | undefined;
  /** Stops the work between two steps, with Interrupted; finished stages stay. */
  readonly signal?: AbortSignal | undefined;
}

/** What a caller does around each stage. */
export interface StageHooks {
  readonly before?: (stage: number) => void;
  readonly after?: (metrics: Metrics) => void | Promise<void>;
}

export class Trainer {
  readonly #learner: Learner;
  readonly #optimizer: AdamW;
  readonly #scaler: GradScaler;
  /** Of the stage at work. */
  #seconds: Seconds = { sample: 0, score: 0, train: 0 };

  private constructor(
    readonly config: Config,
    readonly run: RunWriter,
    readonly policy: Policy,
    readonly reward: Reward,
    readonly prompts: readonly string[],
    private readonly context: RunContext,
  ) {
    if (policy.learner === undefined)
      throw new TypeError("Expected a policy that learns but received one that does not");
    this.#learner = policy.learner;
    const { learningRate: lr, adamBeta1, adamBeta2, adamEpsilon: eps, weightDecay } = config.train;
    this.#optimizer = new AdamW(policy.parameters, { lr, betas: [adamBeta1, adamBeta2], eps, weightDecay });
    this.#scaler = new GradScaler({ enabled: policy.pipeline.computeDtype === "float16" });
  }

  /**
   * Loads the models and begins a run, or goes on with the one in `folder`.
   *
   * @throws InputError and ConfigError before anything is written: for prompts, models or rewards that are not there,
   *   and for a folder whose run has another config
   */
  static async open(folder: string, config: Config, options: TrainerOptions = {}): Promise<Trainer> {
    if (RunReader.exists(folder)) {
      const keys = differingKeys(new RunReader(folder).config(), config);
      if (keys.length > 0) {
        throw new InputError(
          `Expected the config that the run in ${folder} was begun with but received others for ${keys.join(", ")}; choose another folder`,
        );
      }
    }
    const prompts = readPromptLists(config).training;
    const context = { progress: options.progress ?? silent, signal: options.signal };
    await fetchModels(config, context);
    const policy = Policy.load(config);
    try {
      const reward = options.reward ?? (await openReward(config));
      const run = RunReader.exists(folder) ? new RunWriter(folder) : RunWriter.create(folder, config);
      return new Trainer(config, run, policy, reward, prompts, context);
    } catch (error) {
      policy.dispose();
      throw error;
    }
  }

  /** The first stage that is not finished; `config.stages` when all are. */
  get nextStage(): number {
    return this.run.finishedStages().length;
  }

  /** Runs all stages that are not finished. */
  async runAll({ before, after }: StageHooks = {}): Promise<void> {
    this.restore(this.nextStage);
    for (let stage = this.nextStage; stage < this.config.stages; stage++) {
      before?.(stage);
      const metrics = await this.runStage(stage);
      await after?.(metrics);
    }
  }

  /** One stage, from noise to new weights; earlier attempts at it are replaced. */
  async runStage(stage: number): Promise<Metrics> {
    this.run.beginStage(stage);
    const branches = await this.sample(stage);
    try {
      const scored = await this.score(branches);
      const trainSet = this.select(scored);
      try {
        const updates = await this.update(trainSet);
        return this.record(scored, trainSet, updates);
      } finally {
        disposeRecord(trainSet);
      }
    } finally {
      disposeRecord(branches);
    }
  }

  /** Phase 1: K branches from the split of every root. */
  async sample(stage: number): Promise<BranchBatch> {
    const { config } = this;
    const prompts = promptsOfStage(this.prompts, stage, config);
    const interval = trainedSteps(stage, { ...config.interval, stages: config.stages });
    return this.#timed("sample", () => sampleBranches(this.policy, { stage, prompts, interval }, config, this.context));
  }

  /** Phase 2: a reward and an advantage for every branch. */
  async score(batch: BranchBatch): Promise<ScoredBatch> {
    const { advantage, branch, reward } = this.config;
    const prompts = batch.keys.map(({ prompt }) => prompt);
    const imageFile = (sample: number): string | undefined => {
      const name = imageName(this.config, batch, sample);
      return name === undefined ? undefined : this.run.imagePath(batch.stage, name);
    };
    const rewards = await this.#timed("score", () =>
      scoreBranches(this.policy, batch, this.reward, { batchSize: reward.batchSize, imageFile }, this.context),
    );
    const history = this.#history(batch.stage);
    const values = advantages({ prompts, rewards }, history, { mode: advantage.mode, branchCount: branch.count });
    return { ...batch, rewards, advantages: values };
  }

  /** Phase 3: the branches that train, also into the run folder. */
  select(scored: ScoredBatch, save = this.config.record.trajectories > 0): TrainSet {
    const { branch, select } = this.config;
    const selected = selectSamples(scored.advantages, { ...select, branchCount: branch.count });
    const trained = scored.timesteps.length - this.config.interval.skipLast;
    const trainSet: TrainSet = tidy(() => {
      const index = tensor(BigInt64Array.from(selected, BigInt));
      return {
        stage: scored.stage,
        keys: selected.map((i) => scored.keys[i]!),
        timesteps: scored.timesteps.slice(0, trained),
        latents: scored.latents.narrow(1, 0, trained + 1).indexSelect(0, index),
        logProbs: scored.logProbs.narrow(1, 0, trained).indexSelect(0, index),
        advantages: selected.map((i) => scored.advantages[i]!),
      };
    });
    this.run.writeSamples(
      scored.stage,
      sampleLines(scored, new Set(selected), (sample) => imageName(this.config, scored, sample)),
    );
    if (save) saveTrainSet(this.run, trainSet, selected);
    return trainSet;
  }

  /** Phase 4: optimiser steps on the selection. */
  async update(trainSet: TrainSet): Promise<UpdateMetrics[]> {
    return this.#timed("train", () =>
      updatePolicy(this.policy, this.#optimizer, trainSet, this.config, {
        ...this.context,
        scaler: this.#scaler,
      }),
    );
  }

  /** Phase 5: weights, optimiser state and metrics; after this the stage counts as finished. */
  record(
    scored: Pick<ScoredBatch, "stage" | "timesteps" | "rewards">,
    trainSet: TrainSet,
    updates: readonly UpdateMetrics[],
  ): Metrics {
    const { stage } = scored;
    const { branch, record, stages, train } = this.config;
    this.#learner.save(this.run.stagePath(stage, train.parameters));
    tidy(() => {
      const state = new Map([...this.#optimizer.state(), ...this.#scaler.state()]);
      saveSafetensors(this.run.stagePath(stage, "optimizer"), state);
    });
    if (train.parameters === "unet" && stage === stages - 1) {
      this.policy.pipeline.savePretrained(this.run.replaceModel());
    }
    this.run.writeUpdates(stage, updates);
    const metrics = stageMetrics(scored, trainSet, updates, { branchCount: branch.count, seconds: this.#seconds });
    this.run.finishStage(stage, metrics, record);
    return metrics;
  }

  /**
   * Brings weights and moments to where they stand before a stage.
   *
   * @throws InputError when the stage before is not finished, or too old for its optimiser state to have been kept
   */
  restore(stage: number): void {
    if (stage === 0) return;
    const before = stage - 1;
    if (!this.run.has(before, "metrics")) {
      throw new InputError(`Expected stage ${before} to be finished before stage ${stage} in ${this.run.folder}`);
    }
    if (!this.run.has(before, "optimizer")) {
      throw new InputError(
        `Expected the optimiser state of stage ${before} in ${this.run.folder} but it is gone; record.optimizers says how many are kept`,
      );
    }
    this.#learner.load(this.run.stagePath(before, this.config.train.parameters));
    const file = this.run.stagePath(before, "optimizer");
    tidy(() => {
      this.#optimizer.loadState(this.#scaler.loadState(loadSafetensors(file), file), file);
    });
  }

  /** `b2 sample`: phase 1 alone, into the run folder. */
  async sampleStage(stage: number): Promise<BranchBatch["keys"]> {
    this.restore(stage);
    this.run.beginStage(stage);
    const branches = await this.sample(stage);
    saveBranches(this.run, branches);
    this.run.writePartial(stage, { ...this.#seconds });
    disposeRecord(branches);
    return branches.keys;
  }

  /** `b2 select`: phases 2 and 3, from the run folder into it. */
  async selectStage(stage: number): Promise<{ samples: number; selected: number; rewardMean: number }> {
    const branches = loadBranches(this.run, stage);
    this.#seconds = { ...this.#seconds, ...this.run.partial(stage) };
    this.run.beginStage(stage, "images");
    const scored = await this.score(branches);
    const trainSet = this.select(scored, true);
    this.run.writePartial(stage, { ...this.#seconds });
    disposeRecord(branches);
    disposeRecord(trainSet);
    const { mean: rewardMean } = meanAndDeviation(scored.rewards);
    return { samples: scored.keys.length, selected: trainSet.keys.length, rewardMean };
  }

  /** `b2 train`: phases 4 and 5, from the run folder into it. */
  async trainStage(stage: number): Promise<Metrics> {
    const trainSet = loadTrainSet(this.run, stage);
    try {
      this.restore(stage);
      this.#seconds = { ...this.#seconds, ...this.run.partial(stage) };
      const rewards = this.run.samples(stage).map(({ reward }) => reward);
      this.run.beginStage(stage, "updates");
      const updates = await this.update(trainSet);
      return this.record({ stage, timesteps: trainSet.timesteps, rewards }, trainSet, updates);
    } finally {
      disposeRecord(trainSet);
    }
  }

  /** Gives back the models' memory. */
  dispose(): void {
    this.#optimizer.dispose();
    this.policy.dispose();
  }

  /** Rewards of the last H stages. */
  #history(stage: number): PromptRewards[] {
    const first = Math.max(0, stage - this.config.advantage.historyStages);
    return Array.from({ length: stage - first }, (_, i) => {
      const samples = this.run.samples(first + i);
      return { prompts: samples.map(({ prompt }) => prompt), rewards: samples.map(({ reward }) => reward) };
    });
  }

  async #timed<T>(phase: keyof Seconds, work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    const result = await work();
    this.#seconds[phase] = (performance.now() - start) / 1000;
    return result;
  }
}

/** The name of a sample's picture in its stage's folder; undefined for those that are not kept. */
function imageName({ record }: Config, { keys }: BranchBatch, sample: number): string | undefined {
  // Evenly spread over the stage.
  const kept = Math.min(record.images, keys.length);
  const isKept = Math.floor(((sample + 1) * kept) / keys.length) > Math.floor((sample * kept) / keys.length);
  if (!isKept) return undefined;
  const { root, branch } = keys[sample]!;
  return `${stageFiles.images}/${String(root).padStart(4, "0")}-${branch}.png`;
}
