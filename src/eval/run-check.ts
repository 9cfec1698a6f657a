/**
 * Reads everything in a run folder and says what is wrong with it: what is missing, damaged, left over, or does not agree
 * with the rest. Changes nothing, needs no libtorch, and runs no plugin.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { resolveConfig } from "../b2/config/resolve.js";
import type { Config } from "../b2/config/schema.js";
import { stagesBefore } from "../b2/run-plan.js";
import { isJsonObject, jsonLines, readJsonLines } from "../base/files.js";
import { holderOfLock, isLockThere } from "../base/lock.js";
import {
  checkFinite,
  checkPng,
  layout,
  leftOvers,
  RUN_VERSION,
  RunReader,
  SET_ASIDE,
  stageFiles,
  stageOfEvaluation,
  type StageMetrics,
} from "../runs/index.js";
import { readEvaluation, unevaluatedStages } from "./results.js";
import { showDamage } from "./show-damage.js";

/** What is done about a finding, and loses nothing: */
export type Remedy =
  /** delete a file that nobody needs, */
  | "remove"
  /** move it into the folder `set-aside`: it is made again, */
  | "set aside"
  /** write metrics.jsonl again from the stages. */
  | "rewrite";

/** Something that is wrong with a run folder. */
export interface Finding {
  readonly kind: "missing" | "damaged" | "left over" | "inconsistent" | "in use" | "newer";
  /** Within the run folder. */
  readonly path: string;
  /** What was found, in a sentence. */
  readonly problem: string;
  /** What it costs. */
  readonly cost: string;
  /** What to do. */
  readonly advice: string;
  /** What `--repair` does; null where a person has to decide. */
  readonly remedy: Remedy | null;
}

/** What a check says. */
export interface RunCheck {
  readonly folder: string;
  readonly finishedStages: number;
  /** Files that were read. */
  readonly files: number;
  readonly findings: readonly Finding[];
}

const REPAIR = "b2 runs check --repair";
const RUN_AGAIN = "run b2 run on it";

/**
 * Checks a run folder.
 *
 * @throws InputError when it is no folder, or holds nothing of a run
 */
export function checkRun(folder: string): RunCheck {
  return new Check(folder).all();
}

/** One check; its findings add up. */
class Check {
  readonly #folder: string;
  readonly #findings: Finding[] = [];
  #files = 0;

  constructor(folder: string) {
    this.#folder = folder;
  }

  all(): RunCheck {
    const run = this.#run();
    if (run === undefined) return this.#result(0);
    const isUsed = this.#lock();
    const config = this.#config(run);
    const finished = run.finishedStages();
    this.#gaps(run, finished, config);
    const metrics = finished.map((stage) => this.#stage(run, stage, finished.at(-1)!, config));
    if (!isUsed) this.#unfinished(run, finished.at(-1) ?? -1);
    if (metrics.every((one) => one !== undefined)) this.#metricsFile(metrics, isUsed);
    this.#measurements(run, config, finished);
    this.#wholeFiles(config, finished);
    if (!isUsed) this.#leftOvers();
    return this.#result(finished.length);
  }

  #result(finishedStages: number): RunCheck {
    return { folder: this.#folder, finishedStages, files: this.#files, findings: this.#findings };
  }

  #add(path: string, finding: Omit<Finding, "path">): void {
    this.#findings.push({ path: relative(this.#folder, path), ...finding });
  }

  /** Reads a file by `read`, and turns what it throws into a finding. */
  #read<T>(path: string, read: () => T, finding: Pick<Finding, "cost" | "advice" | "remedy">): T | undefined {
    this.#files++;
    try {
      return read();
    } catch (error) {
      this.#add(path, { kind: "damaged", problem: showDamage(error, this.#folder), ...finding });
      return undefined;
    }
  }

  /** run.json: without it nothing else can be judged. */
  #run(): RunReader | undefined {
    const file = layout.run(this.#folder);
    const hasStages = existsSync(layout.stages(this.#folder));
    if (!existsSync(file) && hasStages) {
      this.#add(file, {
        kind: "missing",
        problem: "Expected run.json beside stages but it is gone",
        cost: "the run is not known as one, and cannot go on",
        advice: `copy run.json from a backup; else write one: {"format": "b2-run", "version": ${RUN_VERSION}, "reward": "config"}`,
        remedy: null,
      });
      return undefined;
    }
    if (existsSync(file) && this.#isNewer(file)) return undefined;
    // A folder that is no run at all is a mistake of whoever names it.
    if (!existsSync(file)) return new RunReader(this.#folder);
    return this.#read(file, () => new RunReader(this.#folder), {
      cost: "the run cannot go on",
      advice: `copy run.json from a backup; else write one: {"format": "b2-run", "version": ${RUN_VERSION}, "reward": "config"}`,
      remedy: null,
    });
  }

  #isNewer(file: string): boolean {
    let version: unknown;
    try {
      const run: unknown = JSON.parse(readFileSync(file, "utf8"));
      version = isJsonObject(run) ? run["version"] : undefined;
    } catch {
      return false;
    }
    if (typeof version !== "number" || version <= RUN_VERSION) return false;
    this.#add(file, {
      kind: "newer",
      problem: `Expected a version up to ${RUN_VERSION} but received ${version}`,
      cost: "this b2 cannot read the run; nothing else was checked",
      advice: "use the b2 that made it, or a later one",
      remedy: null,
    });
    return true;
  }

  /** @returns whether a process works on the run, so that unfinished work is no fault */
  #lock(): boolean {
    const file = layout.lock(this.#folder);
    if (!isLockThere(file)) return false;
    const holder = holderOfLock(file);
    if (holder === undefined) {
      this.#add(file, {
        kind: "left over",
        problem: "Expected a living process for the lock but it is dead",
        cost: "nothing: the next process takes it over",
        advice: REPAIR,
        remedy: "remove",
      });
      return false;
    }
    this.#add(file, {
      kind: "in use",
      problem: `process ${holder.pid} of the host ${holder.host} works on the run`,
      cost: "its unfinished stage and what it is writing were not checked",
      advice: "wait for its end, or stop it, and check again",
      remedy: null,
    });
    return true;
  }

  #config(run: RunReader): Config | undefined {
    const file = layout.config(this.#folder);
    const advice = "copy config.json from a backup, or from another run with the same config";
    if (!existsSync(file)) {
      this.#add(file, {
        kind: "missing",
        problem: "Expected config.json but it is gone",
        cost: "the run cannot go on",
        advice,
        remedy: null,
      });
      return undefined;
    }
    const json = this.#read(file, () => run.config(), { cost: "the run cannot go on", advice, remedy: null });
    const plugins = json?.["plugins"];
    // Names that a plugin registers are known only where it is run.
    if (json === undefined || (Array.isArray(plugins) && plugins.length > 0)) return undefined;
    return this.#read(file, () => resolveConfig(json), { cost: "the run cannot go on", advice, remedy: null });
  }

  /** Stages without their mark before others that have it. Whole folders may be deleted by intention. */
  #gaps(run: RunReader, finished: readonly number[], config: Config | undefined): void {
    const last = finished.at(-1);
    if (last === undefined) return;
    const history = config === undefined ? [] : stagesBefore(last + 1, config.advantage.historyStages);
    for (let stage = 0; stage < last; stage++) {
      if (finished.includes(stage)) continue;
      const folder = layout.stage(this.#folder, stage);
      const isNeeded = history.includes(stage) && !run.has(stage, "samples");
      if (!existsSync(folder) && !isNeeded) continue;
      this.#add(folder, {
        kind: "missing",
        problem: `Expected stage ${stage} to be finished, as later ones are, but its ${existsSync(folder) ? "stage.json" : "folder"} is gone`,
        cost: isNeeded
          ? "its rewards are lost to the history of advantages: the run goes on, to other bits"
          : "its metrics; the run goes on",
        advice: "copy it from a backup, if there is one",
        remedy: null,
      });
    }
  }

  /** @returns its metrics */
  #stage(run: RunReader, stage: number, last: number, config: Config | undefined): StageMetrics | undefined {
    const isLast = stage === last;
    const again = isLast
      ? `copy it from a backup, or move ${relative(this.#folder, layout.stage(this.#folder, stage))} away: b2 run makes the stage again`
      : "copy it from a backup, if there is one";
    const stop = isLast ? "the run cannot go on" : "the results of this stage; the run goes on";
    const fact = { cost: stop, advice: again, remedy: null };
    const metrics = this.#read(run.stagePath(stage, "metrics"), () => run.stageMetrics(stage), fact);
    this.#samples(run, stage, metrics, config, last);
    this.#updates(run, stage, metrics);
    this.#weights(run, stage, last, config, fact);
    for (const file of ["sampledTensors", "sampled", "scores", "partial"] as const) {
      if (!run.has(stage, file)) continue;
      this.#add(run.stagePath(stage, file), {
        kind: "left over",
        problem: `Expected no ${stageFiles[file]} in a finished stage`,
        cost: "space",
        advice: REPAIR,
        remedy: "remove",
      });
    }
    return metrics;
  }

  #samples(
    run: RunReader,
    stage: number,
    metrics: StageMetrics | undefined,
    config: Config | undefined,
    last: number,
  ): void {
    const file = run.stagePath(stage, "samples");
    const isHistory = config === undefined || stagesBefore(last + 1, config.advantage.historyStages).includes(stage);
    const cost = isHistory ? "its rewards are lost to the history of advantages" : "the rewards of this stage's images";
    const advice = "copy it from a backup, if there is one; without the file, the run goes on to other bits";
    if (!run.has(stage, "samples")) {
      this.#add(file, { kind: "missing", problem: "Expected a line for every image", cost, advice, remedy: null });
      return;
    }
    const lines = this.#read(file, () => run.samples(stage), { cost, advice, remedy: null });
    if (lines === undefined) return;
    const unequal = (what: string, expected: unknown, received: unknown): void =>
      this.#add(file, {
        kind: "inconsistent",
        problem: `Expected ${String(expected)} for ${what}, as stage.json says, but received ${String(received)}`,
        cost,
        advice,
        remedy: null,
      });
    if (metrics !== undefined) {
      if (typeof metrics.images === "number" && lines.length !== metrics.images)
        unequal("the images", metrics.images, lines.length);
      const mean = lines.reduce((sum, { reward }) => sum + reward, 0) / lines.length;
      if (Math.abs(mean - metrics.rewardMean) > 1e-6 * Math.max(1, Math.abs(mean)))
        unequal("the mean reward", metrics.rewardMean, mean);
    }
    const fact = {
      cost: "an image to look at; nothing that the run needs",
      advice: "nothing has to be done",
      remedy: null,
    };
    for (const { image } of lines) {
      if (typeof image !== "string") continue;
      const path = join(layout.stage(this.#folder, stage), image);
      if (existsSync(path)) this.#read(path, () => checkPng(path), fact);
      else this.#add(path, { kind: "missing", problem: "Expected the image that samples.jsonl names", ...fact });
    }
  }

  #updates(run: RunReader, stage: number, metrics: StageMetrics | undefined): void {
    const file = run.stagePath(stage, "updates");
    const fact = {
      cost: "the curve of this stage's updates; the run goes on",
      advice: "copy it from a backup, if there is one",
      remedy: null,
    };
    if (!run.has(stage, "updates")) {
      this.#add(file, { kind: "missing", problem: "Expected a line for every optimiser step", ...fact });
      return;
    }
    const lines = this.#read(file, () => run.updates(stage), fact);
    if (lines === undefined || typeof metrics?.updates !== "number" || lines.length === metrics.updates) return;
    this.#add(file, {
      kind: "inconsistent",
      problem: `Expected ${metrics.updates} lines, as stage.json says, but received ${lines.length}`,
      ...fact,
    });
  }

  /** Weights, optimiser state and trajectories. */
  #weights(
    run: RunReader,
    stage: number,
    last: number,
    config: Config | undefined,
    fact: Pick<Finding, "cost" | "advice" | "remedy">,
  ): void {
    const missing = (file: "lora" | "optimizer" | "ema", what: string): void =>
      this.#add(run.stagePath(stage, file), {
        kind: "missing",
        problem: `Expected the ${what} after stage ${stage}`,
        ...fact,
      });
    const isFull = config?.train.parameters === "full";
    // Old stages keep their LoRA, but not a whole denoiser.
    if (!run.has(stage, "lora") && !run.has(stage, "denoiser") && (stage === last || !isFull))
      missing("lora", "weights");
    if (stage === last && !run.has(stage, "optimizer")) missing("optimizer", "optimiser state");
    if (stage === last && typeof config?.train.ema === "number" && !run.has(stage, "ema"))
      missing("ema", "moving average");
    for (const path of safetensorsIn(layout.stage(this.#folder, stage))) {
      const isRecord = path === run.stagePath(stage, "selected") && (config?.replay.stages ?? 0) === 0;
      const own = isRecord
        ? { cost: "trajectories to look at; the run goes on", advice: "nothing has to be done", remedy: null }
        : fact;
      this.#read(path, () => checkFinite(path), own);
    }
  }

  /** What the stage that comes next has left. What cannot be used is made again. */
  #unfinished(run: RunReader, last: number): void {
    const next = last + 1;
    const fact = { cost: "the stage is sampled and scored again", advice: REPAIR, remedy: "set aside" } as const;
    for (const file of ["sampled", "partial", "scores"] as const) {
      const path = run.stagePath(next, file);
      if (run.has(next, file))
        this.#read(path, () => void (file === "scores" ? run.scores(next) : run[file](next)), fact);
    }
    const tensors = run.stagePath(next, "sampledTensors");
    if (run.has(next, "sampledTensors")) this.#read(tensors, () => checkFinite(tensors), fact);
    for (const name of namesIn(layout.stages(this.#folder))) {
      if (!/^\d{4,}$/.test(name) || Number(name) <= next) continue;
      this.#add(join(layout.stages(this.#folder), name), {
        kind: "left over",
        problem: `Expected no stage after ${next}, which comes next, but received one that is not finished`,
        cost: "nothing: it is begun again when its turn comes",
        advice: REPAIR,
        remedy: "set aside",
      });
    }
  }

  #metricsFile(metrics: readonly StageMetrics[], isUsed: boolean): void {
    const file = layout.metrics(this.#folder);
    if (metrics.length === 0 || isUsed) return;
    this.#files++;
    const isFile = statSync(file, { throwIfNoEntry: false })?.isFile();
    if (isFile === true && readFileSync(file, "utf8") === jsonLines(metrics)) return;
    this.#add(file, {
      kind: isFile === undefined ? "missing" : "inconsistent",
      problem: "Expected a line for every finished stage, as in its stage.json",
      cost: isFile === false ? "the run cannot go on while a folder is in its place" : "nothing: it is written again",
      advice: REPAIR,
      remedy: "rewrite",
    });
  }

  /** Evaluations, and what was measured before stages. */
  #measurements(run: RunReader, config: Config | undefined, finished: readonly number[]): void {
    for (const name of run.evaluationNames()) {
      const path = layout.evaluation(this.#folder, name);
      const stage = stageOfEvaluation(name);
      const known = name === "before" || name === "after" || stage !== undefined;
      if (!known) continue;
      const canRepeat = stage === undefined || run.has(stage - 1, "lora") || run.has(stage - 1, "denoiser");
      this.#read(path, () => readEvaluation(run, name), {
        cost: canRepeat ? "it is measured again, to the same numbers" : "it is lost: the weights of its stage are gone",
        advice: canRepeat ? `${REPAIR}, then ${RUN_AGAIN}` : "copy it from a backup, if there is one",
        remedy: canRepeat ? "set aside" : null,
      });
    }
    for (const name of namesIn(layout.intervals(this.#folder)).filter((one) => /^\d{4,}\.json$/.test(one))) {
      const stage = Number.parseInt(name);
      this.#read(layout.interval(this.#folder, stage), () => checkInterval(run, stage), {
        cost: "the run cannot go on: the intervals of later stages depend on it",
        advice: "copy it from a backup",
        remedy: null,
      });
    }
    if (config === undefined || !config.eval.enabled || finished.length === 0) return;
    const missing = unevaluatedStages(run, config).map((stage) => `stage-${String(stage + 1).padStart(4, "0")}`);
    if (!existsSync(layout.evaluation(this.#folder, "before"))) missing.unshift("before");
    const isDone = finished.at(-1)! + 1 >= config.stages;
    if (isDone && !existsSync(layout.evaluation(this.#folder, "after"))) missing.push("after");
    for (const name of missing) {
      this.#add(layout.evaluation(this.#folder, name), {
        kind: "missing",
        problem: "Expected an evaluation that the config asks for",
        cost: "nothing: it is made up from the weights",
        advice: RUN_AGAIN,
        remedy: null,
      });
    }
  }

  /** Pictures, warnings, and the whole model of full fine-tuning. */
  #wholeFiles(config: Config | undefined, finished: readonly number[]): void {
    for (const name of namesIn(this.#folder).filter((one) => one.endsWith(".png"))) {
      const path = join(this.#folder, name);
      const fact = { cost: "it is drawn again", advice: `${REPAIR}, then ${RUN_AGAIN}`, remedy: "set aside" } as const;
      this.#read(path, () => checkPng(path), fact);
    }
    const warnings = layout.warnings(this.#folder);
    if (existsSync(warnings)) {
      const fact = { cost: "it is written again", advice: REPAIR, remedy: "set aside" } as const;
      this.#read(warnings, () => readJsonLines(warnings), fact);
    }
    const model = layout.model(this.#folder);
    const fact = {
      cost: "the model in diffusers' layout; the last stage has its denoiser",
      advice: "move the folder of the last stage away: b2 run makes both again",
      remedy: null,
    };
    for (const path of safetensorsIn(model)) this.#read(path, () => checkFinite(path), fact);
    const isDone = config?.train.parameters === "full" && finished.at(-1) === config.stages - 1;
    if (!isDone || existsSync(join(model, "model_index.json"))) return;
    this.#add(model, { kind: "missing", problem: "Expected the whole model of a finished run", ...fact });
  }

  #leftOvers(): void {
    for (const path of leftOvers(this.#folder)) {
      this.#add(path, {
        kind: "left over",
        problem: "Expected no half-written file",
        cost: "space",
        advice: REPAIR,
        remedy: "remove",
      });
    }
  }
}

/** All safetensors files below a folder. */
function safetensorsIn(folder: string): string[] {
  if (!existsSync(folder)) return [];
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  const files = entries
    .filter(({ name }) => name.endsWith(".safetensors"))
    .map(({ parentPath, name }) => join(parentPath, name));
  return files.filter((file) => !/\/sampled\.safetensors$/.test(file)).sort();
}

const namesIn = (folder: string): string[] =>
  (existsSync(folder) ? readdirSync(folder) : []).filter((name) => name !== SET_ASIDE);

/** @throws an error when it is no measurement */
function checkInterval(run: RunReader, stage: number): void {
  const { first, last } = run.interval(stage) as unknown as Record<string, unknown>;
  if (Number.isInteger(first) && Number.isInteger(last)) return;
  throw new Error("Expected whole numbers for first and last");
}
