/**
 * B2-DiffuRL, stage by stage: sample -> score -> select -> update -> record.
 *
 * Source: "Towards Better Alignment: Training Diffusion Models with Reinforcement Learning Against Sparse Rewards"
 * (arXiv 2503.11240). Departure from its reference: one process holds the models through all stages, and the phases
 * pass tensors on in memory; the run folder serves to resume a run and to inspect it. Several processes can share the
 * work (workers.ts); each runs this loop, and holds all of a stage's samples.
 */
import { InputError, Interrupted } from "../base/errors.js";
import { ifProcessEnds } from "../base/process-end.js";
import { silent, warn, type Progress } from "../base/progress.js";
import { listOf } from "../base/show.js";
import { alone, WorkerError, type Group, type RewardRanks, type WithWorkers } from "../distributed/index.js";
import { resolveModel } from "../hub/index.js";
import { RewardError, RewardResources, RewardSet, type Reward, type RewardFunction } from "../rewards/index.js";
import {
  addCost,
  costBetween,
  NO_COST,
  type Cost,
  type IntervalMeasurement,
  type PartialStage,
  type PhaseSeconds,
  type RunReader,
  type RunWriter,
  type SampleLine,
  type StageMetrics,
  type StageScores,
  type UpdateMetrics,
} from "../runs/index.js";
import { allFinite, deviceMemory, resetPeakDeviceMemory, tensor, tidy } from "../torch/index.js";
import { resolveConfig } from "./config/resolve.js";
import { intervalOf, type Config, type ConfigInput } from "./config/schema.js";
import { Learner } from "./learner.js";
import { fetchModels, warnOfToyClip } from "./models.js";
import { objectives, type ObjectiveKind } from "./objectives/index.js";
import { smallestOf } from "./policy/batch-sizes.js";
import { warnOfLongPrompts } from "./policy/long-prompts.js";
import { Policy } from "./policy/policy.js";
import { isMeasured, measuredSteps, measureInterval, reportMeasurement } from "./probe/measured.js";
import { quietStepsTrained } from "./quiet-steps.js";
import { imageNames } from "./record/images.js";
import { KeptPhases } from "./record/kept-phases.js";
import { stageMetrics } from "./record/stage-metrics.js";
import { loadBranches, loadTrainSet, sampleLines, saveTrainSet, type RecordShape } from "./record/storage.js";
import { disposeRecord, type BranchBatch, type ScoredBatch, type TrainSet } from "./records.js";
import { openRewards } from "./remote-rewards.js";
import { advantagesByLevel, combinedAdvantages } from "./rollout/advantage.js";
import { sampleBranches } from "./rollout/branches.js";
import { leftOutInWords, withoutNotFinite } from "./rollout/finite.js";
import { promptsOfStage, type PromptLists } from "./rollout/prompts.js";
import { trainedSteps } from "./rollout/schedule.js";
import { scoreBranches, type BranchScores } from "./rollout/score.js";
import { selectRows } from "./rollout/select.js";
import { imagesOf, levelsOf } from "./rollout/tree.js";
import {
  expectState,
  keptBy,
  openRunFolder,
  planFolder,
  showDifference,
  stagesBefore,
  withDevice,
  type FolderPlan,
  type RunPlan,
} from "./run-plan.js";
import { NOTHING_YET, sumOfCosts, timed } from "./stage-costs.js";
import { withReplay } from "./update/replay.js";
import { skippedInARow } from "./update/skipped.js";
import { checkTimesteps } from "./update/timesteps.js";
import { updatePolicy } from "./update/update.js";
import { expectSameWeights, shareHistory, shareResult, shareSamples } from "./workers.js";

/** What was sampled for a stage, and what that has taken. */
interface SampledStage {
  readonly branches: BranchBatch;
  readonly partial: PartialStage;
}

/** What a program can pass besides the config. */
export interface TrainerOptions {
  /** Replaces the config's rewards. */
  readonly reward?: RewardFunction | Reward | undefined;
  readonly progress?: Progress | undefined;
  /** Stops between two steps by throwing Interrupted; finished stages are kept. */
  readonly signal?: AbortSignal | undefined;
  /** The processes that share the work. Default: this one alone. */
  readonly workers?: Group | undefined;
  /** Other processes that score for these. Default: each has its own rewards. */
  readonly rewardRanks?: RewardRanks | undefined;
}

/** Callbacks around each stage. */
export interface StageHooks {
  /** Called with the number of the stage that is about to run, from 0. */
  readonly before?: (stage: number) => void;
  /** Called with the metrics of a finished stage, and awaited. */
  readonly after?: (metrics: StageMetrics) => void | Promise<void>;
}

/** What is recorded of a stage. */
export interface StageResult {
  readonly scored: Pick<ScoredBatch, "stage" | "keys" | "rewards" | "parts">;
  readonly trainSet: TrainSet;
  readonly updates: readonly UpdateMetrics[];
  readonly seconds: PhaseSeconds;
  /** What the stage has cost, its record aside. */
  readonly cost: Cost;
}

/** Trains a policy stage by stage, see the top of this file. Owns the models: call `dispose`. */
export class Trainer {
  readonly config: Config;
  /** The run's folder, open for reading. */
  readonly run: RunReader;
  readonly policy: Policy;
  /** The training prompts. */
  readonly prompts: readonly string[];
  readonly rewards: RewardSet;
  /** Models that rewards share. */
  readonly resources: RewardResources;
  /** The run's folder, open for writing by the phases of a stage. */
  readonly writer: RunWriter;
  readonly objective: ObjectiveKind;
  readonly #context: WithWorkers;
  readonly #workers: Group;
  readonly #learner: Learner;
  readonly #metadata: PromptLists["metadata"];
  /** Batches that a worker has halved, by the config's key. */
  #halved: StageMetrics["halvedBatches"] = {};
  /** Cost of measurements that an interrupted attempt at a stage has left. */
  #found: Cost = NO_COST;

  private constructor(
    plan: RunPlan,
    parts: Pick<Trainer, "policy" | "rewards" | "resources" | "writer">,
    context: WithWorkers,
  ) {
    const { config } = plan;
    this.config = config;
    this.prompts = plan.lists.training;
    this.#metadata = plan.lists.metadata;
    this.policy = parts.policy;
    this.rewards = parts.rewards;
    this.resources = parts.resources;
    this.writer = parts.writer;
    this.run = parts.writer.reader;
    this.objective = objectives.get(config.objective.name);
    this.#context = context;
    this.#workers = context.workers ?? alone;
    this.#learner = new Learner(parts.policy, config, this.#workers);
  }

  /**
   * Loads the models and begins a run, or resumes the one in `folder`. Downloads models that are missing.
   *
   * @throws InputError before anything is written: for missing prompts, models or rewards, and for a folder whose run
   *   has another config
   */
  static async open(folder: string, config: ConfigInput, options: TrainerOptions = {}): Promise<Trainer> {
    const programReward = options.reward !== undefined;
    return Trainer.openPlanned(planFolder(folder, resolveConfig(config), { programReward }), options);
  }

  /** Like `open`, for a folder that has been looked at. */
  static async openPlanned(folderPlan: FolderPlan, options: TrainerOptions = {}): Promise<Trainer> {
    const { reward, progress = silent, signal, workers, rewardRanks } = options;
    const context = { progress, signal, workers, rewardRanks };
    const plan = withDevice(folderPlan);
    try {
      await fetchModels(plan.config, { rewards: reward === undefined && rewardRanks === undefined }, context);
    } catch (error) {
      plan.lock?.release();
      throw error;
    }
    return Trainer.begin(plan, new RewardResources(plan.device, resolveModel, plan.folder), context, { reward });
  }

  /**
   * Like `open`, for a plan whose models are downloaded.
   *
   * @param plan its lock is owned by the trainer from here on
   * @param resources owned by the trainer from here on
   * @param options `prompts`: those to come, see Policy.openForTraining
   */
  static async begin(
    plan: RunPlan,
    resources: RewardResources,
    context: WithWorkers,
    { reward, prompts: toCome = [] }: { reward?: TrainerOptions["reward"]; prompts?: readonly string[] } = {},
  ): Promise<Trainer> {
    const { config } = plan;
    let policy: Policy | undefined;
    let rewards: RewardSet | undefined;
    try {
      for (const change of plan.changes) context.progress.log(`resuming with ${showDifference(change)}`);
      for (const note of plan.notes) context.progress.log(note);
      rewards = reward === undefined ? await openRewards(config, resources, context) : RewardSet.of(reward);
      policy = await Policy.openForTraining(config, toCome, context);
      checkTimesteps(config, policy.timesteps);
      const { training, "held-out": heldOut = [] } = plan.lists;
      if (reward === undefined) warnOfToyClip(config, context.progress);
      const quiet = quietStepsTrained(config);
      if (quiet !== undefined) warn(context.progress, { kind: "quiet-steps", text: quiet });
      const prompts = [...training, ...heldOut, config.sample.negativePrompt];
      warnOfLongPrompts(policy.model, prompts, context.progress);
      return new Trainer(plan, { policy, rewards, resources, writer: openRunFolder(plan) }, context);
    } catch (error) {
      policy?.dispose();
      rewards?.dispose();
      resources.dispose();
      plan.lock?.release();
      throw error;
    }
  }

  /** The stage after the last finished one; `config.stages` when all are finished. */
  get nextStage(): number {
    return this.run.nextStage();
  }

  /** Runs all unfinished stages. */
  async runAll({ before, after }: StageHooks = {}): Promise<void> {
    await shareHistory(this.#workers, this.run, this.config);
    this.restore(this.nextStage);
    for (let stage = this.nextStage; stage < this.config.stages; stage++) {
      before?.(stage);
      const metrics = await this.runStage(stage);
      await after?.(metrics);
    }
  }

  /**
   * Runs one stage, from noise to new weights. Samples and scores that an earlier attempt has left are used; the rest of
   * it is replaced.
   *
   * @throws RewardError if a reward fails: the samples are kept in the run folder then
   */
  async runStage(stage: number): Promise<StageMetrics> {
    const { branches, partial } = (await this.#keptSamples(stage)) ?? (await this.#sampleNow(stage));
    try {
      const start = this.spent();
      const [scored, score] = await timed(() => this.scoreOrKeep(branches, partial));
      const trainSet = this.select(scored);
      try {
        const [updates, train] = await timed(() => this.update(trainSet));
        return this.record({
          scored,
          trainSet,
          updates,
          seconds: { sample: partial.sample, score: partial.score + score, train, rewards: scored.rewardSeconds },
          cost: sumOfCosts(partial.costs.sample, partial.costs.score, costBetween(start, this.spent())),
        });
      } finally {
        disposeRecord(trainSet);
      }
    } finally {
      disposeRecord(branches);
    }
  }

  /**
   * Phase 1: K branches from the split of every root, without the roots whose latents are no numbers.
   *
   * @throws InputError if these are more than half
   */
  async sample(stage: number): Promise<BranchBatch> {
    const { config } = this;
    await this.#measure(stage);
    const prompts = promptsOfStage(this.prompts, stage, config);
    const { skipLast } = config.interval;
    await this.policy.encodeAhead(prompts, this.#context);
    const rollout = { stage, prompts, interval: this.#interval(stage), skipLast, data: this.objective.learnsFrom };
    const sampled = await this.#learner.followers.sampling(() =>
      sampleBranches(this.policy, rollout, config, this.#context),
    );
    const { batch, leftOut } = withoutNotFinite(sampled);
    if (leftOut.length > 0) {
      const text = `stage ${stage} goes on without ${leftOut.length} of ${prompts.length} roots, whose latents are NaN or infinite: ${leftOut.map(leftOutInWords).join("; ")}`;
      warn(this.#context.progress, { kind: "not-finite-roots", text, stages: stage });
    }
    return batch;
  }

  /**
   * Phase 2: rewards and an advantage for every branch. What rewards say before one of them fails is kept on disk.
   *
   * @param scored called after every batch with all that has been scored so far
   */
  async score(batch: BranchBatch, scored?: (scores: StageScores) => void): Promise<ScoredBatch> {
    const { record, sample } = this.config;
    const names = imageNames(batch.keys, record.images);
    const imageFile = (sample: number): string | undefined => {
      const name = names[sample];
      return name === undefined ? undefined : this.writer.imagePath(batch.stage, name);
    };
    const options = {
      batchSize: sample.decodeBatchSize,
      imageFile,
      metadata: this.#metadata,
      kept: (await this.#workers.broadcastJson(this.#keptScores(batch) ?? null)) ?? undefined,
      keep: (scores: StageScores) => this.writer.writeScores(batch.stage, scores),
      scored,
    };
    const scores = await this.resources.using(() =>
      scoreBranches(this.policy, batch, this.rewards, options, this.#context),
    );
    const byLevel = this.#advantages(batch, scores);
    return { ...batch, ...scores, advantages: byLevel.at(-1)!, innerAdvantages: byLevel.slice(0, -1) };
  }

  /**
   * Scores, and keeps what was sampled and scored: as `record.phases` says, and in any case if scoring fails, also where a
   * reward ends the process.
   *
   * @throws RewardError that says so
   */
  async scoreOrKeep(branches: BranchBatch, partial: PartialStage): Promise<ScoredBatch> {
    const { phases } = this.config.record;
    // What a server or a person says is dear however quickly it comes.
    const mode = phases === "auto" && this.rewards.concurrent ? "always" : phases;
    const kept = new KeptPhases(this.writer, branches, partial, { mode, spent: () => this.spent() });
    const keep = (): string => {
      kept.write();
      return `What was sampled for stage ${branches.stage} is kept: the same command goes on from there`;
    };
    kept.offer();
    const done = ifProcessEnds(keep);
    try {
      return await this.score(branches, (scores) => kept.offer(scores));
    } catch (error) {
      if (error instanceof Interrupted || error instanceof WorkerError) keep();
      if (!(error instanceof RewardError)) throw error;
      throw new RewardError(`${error.message}\n${keep()}`, { cause: error.cause });
    } finally {
      done();
    }
  }

  /** Of each level of the tree; the images are the last. */
  #advantages({ stage, keys, timesteps }: BranchBatch, { rewards, parts }: BranchScores): number[][] {
    const { advantage, branch } = this.config;
    const prompts = keys.map(({ prompt }) => prompt);
    const levels = levelsOf(branch, timesteps.length);
    const lines = this.#history(stage);
    const ofReward = (values: readonly number[], of: (line: SampleLine) => number): number[][] => {
      const history = lines.map((stage) => ({ prompts: stage.map(({ prompt }) => prompt), rewards: stage.map(of) }));
      return advantagesByLevel({ prompts, rewards: values }, history, levels, advantage);
    };
    if (advantage.combine === "raw") return ofReward(rewards, ({ reward }) => reward);
    const { labels, weights } = this.rewards;
    return combinedAdvantages(
      labels.map((label, i) => ({
        weight: weights[i]!,
        levels: ofReward(parts[label]!, (line) => line.rewards?.[label] ?? line.reward),
      })),
    );
  }

  /** Phase 3: selects the branches that train, and writes them to the run folder. */
  select(scored: ScoredBatch, { keep = keptBy(this.config).trajectories > 0 }: { keep?: boolean } = {}): TrainSet {
    const { branch, select, interval, record } = this.config;
    const steps = scored.timesteps.length - interval.skipLast;
    const ofImages = scored.logProbs === undefined;
    const rows = selectRows(
      [...(scored.innerAdvantages ?? []), scored.advantages],
      levelsOf(branch, scored.timesteps.length),
      { ...select, steps, ofImages },
    );
    const samples = rows.map(({ sample }) => sample);
    const states = ofImages ? 1 : steps + 1;
    const trainSet: TrainSet = tidy(() => {
      const index = tensor(BigInt64Array.from(samples, BigInt));
      return {
        stage: scored.stage,
        keys: rows.map(({ sample, edge }) => ({ ...scored.keys[sample]!, ...(edge && { edge }) })),
        timesteps: scored.timesteps.slice(0, steps),
        latents: scored.latents.narrow(1, 0, states).indexSelect(0, index),
        logProbs: scored.logProbs?.narrow(1, 0, steps).indexSelect(0, index),
        advantages: rows.map(({ advantage }) => advantage),
      };
    });
    const names = imageNames(scored.keys, record.images);
    // Of a tree's edges, an image's own is the last.
    const own = rows.filter(({ edge }) => edge === undefined || edge.to === steps).map(({ sample }) => sample);
    this.writer.writeSamples(scored.stage, sampleLines(scored, new Set(own), names));
    if (keep) saveTrainSet(this.writer, trainSet, samples, this.recordShape);
    return trainSet;
  }

  /**
   * Phase 4: optimiser steps on the selection, and on what is replayed.
   *
   * @throws InputError if the weights run away, or after more than `train.mostSkipped` steps in a row that are skipped
   */
  async update(trainSet: TrainSet): Promise<UpdateMetrics[]> {
    const { optimizer, scaler, followers, gradients } = this.#learner;
    const skippedBefore = await this.#workers.broadcastJson(skippedInARow(this.run, trainSet.stage));
    const optimization = { optimizer, scaler, followers, gradients, skippedBefore };
    const all = this.config.replay.stages === 0 ? trainSet : this.#withReplay(trainSet);
    try {
      await this.policy.encodeAhead(
        all.keys.map(({ prompt }) => prompt),
        this.#context,
      );
      const updates = await updatePolicy(this.policy, optimization, all, this.config, this.#context);
      if (![...this.policy.parameters.values()].every(allFinite)) {
        throw new InputError(
          `Expected weights of numbers after the update of stage ${trainSet.stage} but received NaN or infinity; lower train.learningRate`,
        );
      }
      await expectSameWeights(this.#workers, this.policy.parameters, trainSet.stage);
      this.#halved = smallestOf(await this.#workers.allGatherJson(this.policy.batches.halved));
      this.#learner.followers.finished(trainSet.stage);
      return updates;
    } finally {
      if (all !== trainSet) disposeRecord(all);
    }
  }

  /** Phase 5: weights, optimiser state and metrics; after this the stage counts as finished. */
  record({ scored, trainSet, updates, seconds, cost }: StageResult): StageMetrics {
    const { stage } = scored;
    const { branch, sample, stages, train } = this.config;
    if (this.#workers.rank === 0) this.#learner.save(this.writer, stage);
    if (this.#workers.rank === 0 && train.parameters === "full" && stage === stages - 1) {
      this.#learner.followers.withResult(() => this.policy.model.savePretrained(this.writer.replaceModel()));
    }
    this.writer.writeUpdates(stage, updates);
    const before = stage === 0 ? NO_COST : this.run.stageMetrics(stage - 1).cost;
    const metrics = stageMetrics({
      scored,
      trainSet,
      updates,
      seconds,
      trainedSteps: this.#interval(stage),
      emaDistance: this.#learner.followers.emaDistance,
      roots: sample.rootsPerStage,
      branchCount: imagesOf(branch),
      halvedBatches: this.#halved,
      deviceBytes: deviceMemory(this.policy.device)?.peak ?? null,
      cost: before && addCost(before, cost),
    });
    resetPeakDeviceMemory(this.policy.device);
    this.writer.finishStage(stage, metrics, keptBy(this.config));
    return metrics;
  }

  /**
   * Restores weights and optimiser state to their values before a stage.
   *
   * @throws InputError when the previous stage is not finished, or so old that its optimiser state was deleted
   */
  restore(stage: number): void {
    if (stage === 0) return;
    expectState(this.run, stage - 1);
    this.#learner.load(this.run, stage - 1);
  }

  /** Runs `work` with the weights that were the result after a finished stage. `restore` comes before any training. */
  async evaluatingStage<T>(stage: number, work: () => Promise<T>): Promise<T> {
    await shareResult(this.#workers, this.run, stage);
    this.#learner.loadResult(this.run, stage);
    return this.evaluating(work);
  }

  /** Runs `work` with the weights that are the result so far: their moving average, where `train.ema` asks for one. */
  evaluating<T>(work: () => Promise<T>): Promise<T> {
    return this.#learner.followers.evaluating(work);
  }

  /**
   * The counters of all that this process has spent, on evaluations too. The difference of two readings is the cost of
   * what lies between them: every prediction of the policy and every image that the rewards score is counted.
   */
  spent(): Cost {
    const { user, system } = process.cpuUsage(); // microseconds
    const spent = {
      queries: this.rewards.queries,
      forwardPasses: this.policy.passes.forward,
      backwardPasses: this.policy.passes.backward,
      seconds: performance.now() / 1000,
      processorSeconds: (user + system) / 1e6,
    };
    return addCost(spent, this.#found);
  }

  /** What the records of this run hold. */
  get recordShape(): RecordShape {
    const { objective, policy, config } = this;
    const isTree = config.branch.splits.length > 0;
    return { learnsFrom: objective.learnsFrom, latentShape: policy.latentShape, isTree };
  }

  /** Frees the models' memory, and lets other processes work on the run. */
  dispose(): void {
    this.writer.close();
    this.#learner.dispose();
    this.policy.dispose();
    this.rewards.dispose();
    this.resources.dispose();
  }

  /** The selection with trajectories of earlier stages, which are read from the run folder: a resumed run has no other. */
  #withReplay(trainSet: TrainSet): TrainSet {
    const { stages, share } = this.config.replay;
    const past: TrainSet[] = [];
    try {
      for (const stage of stagesBefore(trainSet.stage, stages)) {
        // A stage whose folder is lost.
        if (!this.run.has(stage, "metrics")) continue;
        past.push(loadTrainSet(this.run, stage, this.recordShape));
      }
      return withReplay(trainSet, past, this.objective, share);
    } finally {
      past.forEach(disposeRecord);
    }
  }

  /** How many of the last steps a stage branches and trains. */
  #interval(stage: number): number {
    const { interval } = this.config;
    const { stages, ...bounds } = intervalOf(this.config);
    if (interval.mode === "fixed") return trainedSteps(stage, { ...bounds, stages });
    const before = Array.from({ length: stage + 1 }, (_, i) => this.run.interval(i));
    const measurements = before.filter((measurement) => measurement !== undefined);
    return measuredSteps(stage, measurements, { stages, skipLast: interval.skipLast });
  }

  /** Measures the interval where it is due before a stage, unless an attempt at this stage has done so. */
  async #measure(stage: number): Promise<void> {
    if (!isMeasured(stage, this.config.interval)) return;
    const known = this.run.interval(stage);
    if (known !== undefined) {
      this.#found = addCost(this.#found, known.cost);
      return;
    }
    // By rank 0 alone.
    if (this.#workers.rank > 0) {
      this.writer.writeInterval(await this.#workers.broadcastJson<IntervalMeasurement>(undefined as never));
      return;
    }
    const { policy, rewards, prompts, config } = this;
    const { progress, signal } = this.#context;
    const context = { progress, signal, metadata: this.#metadata };
    const start = this.spent();
    const measured = await this.#learner.followers.sampling(() =>
      this.resources.using(() => measureInterval(policy, rewards, prompts, stage, config, context)),
    );
    const measurement = { ...measured, cost: costBetween(start, this.spent()) };
    this.writer.writeInterval(measurement);
    await this.#workers.broadcastJson(measurement);
    reportMeasurement(measured, this.#context.progress);
  }

  /** The images of the last H stages, without those of stages that are lost. */
  #history(stage: number): SampleLine[][] {
    const stages = stagesBefore(stage, this.config.advantage.historyStages);
    return stages.filter((one) => this.run.has(one, "samples")).map((one) => this.run.samples(one));
  }

  async #sampleNow(stage: number): Promise<SampledStage> {
    this.writer.beginStage(stage);
    const start = this.spent();
    const [branches, sample] = await timed(() => this.sample(stage));
    return { branches, partial: { ...NOTHING_YET, sample, costs: { sample: costBetween(start, this.spent()) } } };
  }

  /** The samples of an attempt at a stage whose scoring did not come to its end; undefined if there is none. */
  async #keptSamples(stage: number): Promise<SampledStage | undefined> {
    const kept = await shareSamples(this.#workers, this.#samplesInFolder(stage));
    // The folder of another worker knows nothing of the attempt.
    if (kept !== undefined && this.#workers.rank > 0) this.writer.beginStage(stage);
    return kept;
  }

  #samplesInFolder(stage: number): SampledStage | undefined {
    const { run, writer } = this;
    if (!run.has(stage, "sampled") || !run.has(stage, "sampledTensors")) return undefined;
    const { progress } = this.#context;
    const partial = { ...NOTHING_YET, ...run.partial(stage) };
    let branches: BranchBatch;
    try {
      branches = loadBranches(run, stage, this.recordShape);
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      progress.log(
        `stage ${stage}: sampling again, since what an earlier attempt has left is damaged: ${error.message}`,
      );
      return undefined;
    }
    progress.log(`stage ${stage}: going on with ${branches.keys.length} samples of an earlier attempt`);
    writer.beginStage(stage, run.has(stage, "scores") ? "samples" : "images");
    writer.writePartial(stage, partial);
    return { branches, partial };
  }

  /** What an earlier attempt has scored. @throws InputError if it belongs to other samples */
  #keptScores({ stage, keys }: BranchBatch): StageScores | undefined {
    const scores = this.run.scores(stage);
    if (scores === undefined) return undefined;
    const { labels } = this.rewards;
    const lists = labels.map((label) => scores.parts[label]);
    if (lists.every((list) => list !== undefined && list.length <= keys.length)) return scores;
    throw new InputError(
      `Expected scores of ${listOf(labels, "and")} for at most ${keys.length} images in ${this.run.stagePath(stage, "scores")}; delete it to have them scored again`,
    );
  }
}
