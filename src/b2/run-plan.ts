/**
 * Decides whether a run starts, restarts or resumes in its folder, by cheap checks that come before anything is
 * downloaded, loaded or written.
 */
import { statSync } from "node:fs";
import { InputError } from "../base/errors.js";
import { makeFolder } from "../base/files.js";
import type { Lock } from "../base/lock.js";
import { listOf, show } from "../base/show.js";
import { layout, RunReader, RunWriter, type MadeBy, type Maker } from "../runs/index.js";
import type { Device } from "../torch/index.js";
import { ConfigError, differences, resolveConfig, type Difference } from "./config/resolve.js";
import { intervalOf, type Config } from "./config/schema.js";
import { makerChanges, makerOf } from "./maker.js";
import { openDevice } from "./policy/device.js";
import { checkRewardsOf } from "./reward-problems.js";
import { readPromptLists, type PromptLists } from "./rollout/prompts.js";

/** What becomes of a run folder. */
export interface FolderPlan {
  readonly folder: string;
  readonly config: Config;
  readonly lists: PromptLists;
  /** Whether the calling program passes its own reward, which a config cannot name. */
  readonly programReward: boolean;
  /** `resume`: the folder holds a run. `restart`: it holds one that has come to nothing yet, begun with another config. */
  readonly mode: "new" | "restart" | "resume";
  /** Keys that a resume changes; none of them decides what is computed in finished stages. */
  readonly changes: readonly Difference[];
  /** What whoever resumes the run should know, in sentences. */
  readonly notes: readonly string[];
  /** Of a folder that is there. Whoever has the plan releases it, or hands it to `openRunFolder`. */
  readonly lock: Lock | undefined;
}

/** A FolderPlan with what will compute. */
export interface RunPlan extends FolderPlan {
  readonly device: Device;
  readonly madeBy: MadeBy;
}

/**
 * Checks prompts, rewards and folder, in this order, and takes the folder's lock. Needs no libtorch.
 *
 * @throws InputError for missing prompts, rewards that lack something, a folder of another run, and one that another process works on
 */
export function planFolder(folder: string, config: Config, { programReward = false } = {}): FolderPlan {
  const lists = readPromptLists(config);
  if (!programReward) checkRewardsOf(config, lists);
  if (!RunReader.exists(folder)) {
    RunWriter.expectNew(folder);
    return { folder, config, lists, programReward, mode: "new", changes: [], notes: [], lock: undefined };
  }
  const lock = RunWriter.lock(folder);
  try {
    return { folder, lists, programReward, lock, ...compareWithRun(folder, config, programReward) };
  } catch (error) {
    lock.release();
    throw error;
  }
}

/**
 * Checks the device, and compares what computes with what has computed the run so far. Releases the folder if it throws.
 *
 * @throws InputError for a device that cannot compute
 */
export function withDevice(plan: FolderPlan): RunPlan {
  const { folder, config, mode } = plan;
  try {
    const device = openDevice(config);
    const reader = mode === "resume" ? new RunReader(folder) : undefined;
    const fromStage = reader?.nextStage() ?? 0;
    const madeBy = { fromStage, at: new Date().toISOString(), ...makerOf(config) };
    const before = fromStage > 0 ? reader?.run.madeBy?.at(-1) : undefined;
    return { ...plan, device, madeBy, notes: [...plan.notes, ...makerNote(before, madeBy, plan.changes)] };
  } catch (error) {
    plan.lock?.release();
    throw error;
  }
}

/** A line that bits will differ, where something else computes than before. What the config changes is told anyway. */
function makerNote(before: Maker | undefined, after: Maker, changes: readonly Difference[]): string[] {
  if (before === undefined) return [];
  const told = changes.map(({ key }) => key.replace(/^model\./, ""));
  const others = makerChanges(before, after).filter((change) => !told.includes(change.split(" ", 1)[0]!));
  if (others.length === 0) return [];
  return [`resuming with ${others.join(", ")}: bits will differ from those of an uninterrupted run`];
}

/** Creates, empties or opens the run folder, as planned. The writer has its lock. */
export function openRunFolder({ folder, config, mode, changes, programReward, madeBy, lock }: RunPlan): RunWriter {
  const begun = { config, reward: programReward ? "program" : "config", madeBy } as const;
  if (mode === "new") {
    makeFolder(folder);
    const taken = lock ?? RunWriter.lock(folder);
    try {
      return RunWriter.create(folder, begun, taken);
    } catch (error) {
      taken.release();
      throw error;
    }
  }
  if (mode === "restart") return RunWriter.recreate(folder, begun, lock);
  const writer = new RunWriter(folder, lock);
  const last = writer.reader.run.madeBy?.at(-1);
  if (madeBy.fromStage < config.stages && (last === undefined || makerChanges(last, madeBy).length > 0)) {
    writer.writeMaker(madeBy);
  }
  return resume(writer, config, changes);
}

/** Opens the folder of a run that goes on without a model: a finished one. */
export const resumeFolder = ({ folder, config, changes, lock }: FolderPlan): RunWriter =>
  resume(new RunWriter(folder, lock), config, changes);

/** Whether changes of the config leave something to measure or to show anew. */
export const remeasures = (changes: readonly Difference[]): boolean =>
  changes.some(({ key }) => EVALUATED.test(key) || SHOWN.test(key));

function resume(writer: RunWriter, config: Config, changes: readonly Difference[]): RunWriter {
  applyChanges(writer, config, changes);
  writer.mend(keptBy(config));
  return writer;
}

/** How many of the latest stages keep their trajectories and optimiser state. Trajectories may be replayed. */
export const keptBy = ({ record, replay }: Pick<Config, "record" | "replay">) => ({
  trajectories: Math.max(record.trajectories, replay.stages),
  optimizers: record.optimizers,
});

/** Keys that decide what evaluations measure, and what contact sheets show. */
const EVALUATED = /^(eval\.(steps|noise|imagesPerPrompt|maxPrompts|clip|truth)|prompts\.heldOut)$/;
const SHOWN = /^(eval\.(steps|noise|sheet|sheetImages)|prompts\.heldOut|stages)$/;

/** Changes the config of a run, and removes what another config has measured: it is measured again. */
function applyChanges(writer: RunWriter, config: Config, changes: readonly Difference[]): void {
  if (changes.length === 0) return;
  const grown = changes.find(({ key }) => key === "stages");
  // Each of these before config.json: cut off in between, the run is one of the former config that lacks something.
  if (grown !== undefined) writer.keepEvaluationAfter(Number(grown.before));
  if (changes.some(({ key }) => EVALUATED.test(key))) writer.removeEvaluations();
  if (changes.some(({ key }) => SHOWN.test(key))) writer.removePicture("before-after.png");
  writer.settle();
  writer.writeConfig(config);
}

/** A difference as text: `model.threads: 1 -> 2`. */
export const showDifference = ({ key, before, after }: Difference): string =>
  `${key}: ${show(before, 60)} -> ${show(after, 60)}`;

type Comparison = Pick<FolderPlan, "config" | "mode" | "changes" | "notes">;

function compareWithRun(folder: string, given: Config, programReward: boolean): Comparison {
  const reader = new RunReader(folder);
  const begun = configOfFolder(reader);
  const { config, changes, deciding } = goOn(begun, given);
  const isProgram = reader.run.reward === "program";
  const finished = reader.finishedStages();
  // What the phases of the first stage have left is work as well; but where a reward failed, it may be its config's fault.
  const hasWork = finished.length > 0 || (reader.has(0, "sampled") && reader.partial(0).costs?.score === undefined);
  if (!hasWork) {
    const all = differences(begun, given);
    const isOther = all.some(({ affects }) => affects === undefined) || isProgram !== programReward;
    return { config: given, mode: isOther ? "restart" : "resume", changes: isOther ? [] : all, notes: [] };
  }
  if (deciding.length > 0) {
    throw new InputError(
      `Expected the config that the run in ${folder} was begun with but received other values for\n  ` +
        `${deciding.map(showDifference).join("\n  ")}\nChoose another folder for another run`,
    );
  }
  if (isProgram && !programReward) {
    throw new InputError(
      `Expected the reward of the program that began the run in ${folder}, which its config cannot name, but received ` +
        "none; resume it with that program, or register the reward in a plugin and begin a new run whose config names it",
    );
  }
  if (!isProgram && programReward) {
    throw new InputError(
      `Expected the rewards of the config, as the run in ${folder} was begun with, but received the program's own ` +
        "reward; choose another folder for another run",
    );
  }
  return { config, mode: "resume", changes, notes: [...growthNote(begun, config), ...checkFinished(reader, config)] };
}

/** A run's config and another one that it is to go on with. */
export interface GoingOn {
  readonly config: Config;
  readonly changes: readonly Difference[];
  /** Changes that make it another run: of keys that decide what finished stages have computed. */
  readonly deciding: readonly Difference[];
}

/**
 * How a run goes on with another config. With more stages the interval keeps growing over those that the run was begun
 * with (`interval.stages`), so that the run is that of one longer config from its first stage on.
 */
export function goOn(begun: Config, given: Config): GoingOn {
  const { first, last } = intervalOf(given);
  const grows = given.interval.mode === "measured" || first !== last;
  const planned = begun.interval.stages ?? (grows && given.stages > begun.stages ? begun.stages : null);
  const interval = { ...given.interval, stages: given.interval.stages ?? planned };
  const config = { ...given, interval };
  const sameSchedule = !grows || intervalOf(begun).stages === intervalOf(config).stages;
  const changes = differences(begun, config);
  const deciding = changes.filter(({ key, affects }) => {
    if (key === "interval.stages") return !sameSchedule;
    return affects === undefined || (affects === "length" && given.stages < begun.stages);
  });
  return { config, changes, deciding };
}

function growthNote(begun: Config, config: Config): string[] {
  const { stages, last } = intervalOf(config);
  if (config.stages === begun.stages || config.interval.stages === null) return [];
  const further = config.interval.mode === "fixed" ? `, so further stages train the last ${last} steps` : "";
  return [`the interval grows over the first ${stages} stages, as the run was begun (interval.stages)${further}`];
}

/**
 * Checks that a run can go on after its latest finished stage.
 *
 * @returns what is missing of earlier stages
 * @throws InputError when the latest stage lacks its state, or a file that is needed is damaged
 */
function checkFinished(reader: RunReader, config: Config): string[] {
  const { folder } = reader;
  const finished = reader.finishedStages();
  const last = finished.at(-1);
  if (last === undefined) return [];
  reader.metrics();
  const metrics = layout.metrics(folder);
  if (statSync(metrics, { throwIfNoEntry: false })?.isDirectory() === true) {
    throw new InputError(`Expected a file at ${metrics} but received a folder`);
  }
  const notes = missingNote(folder, finished);
  if (last + 1 >= config.stages) return notes;
  expectState(reader, last);
  const history = stagesBefore(last + 1, config.advantage.historyStages);
  const lost = history.filter((stage) => !reader.has(stage, "samples"));
  for (const stage of history) if (!lost.includes(stage)) reader.samples(stage);
  if (lost.length > 0) {
    const folders = listOf(
      lost.map((stage) => layout.stage(folder, stage)),
      "and",
    );
    notes.push(
      `the rewards of ${folders} are lost to the history of advantages, so bits differ from those of a whole run`,
    );
  }
  return notes;
}

/** At most `count` stages before one. */
export const stagesBefore = (stage: number, count: number): number[] => {
  const first = Math.max(0, stage - count);
  return Array.from({ length: stage - first }, (_, i) => first + i);
};

function missingNote(folder: string, finished: readonly number[]): string[] {
  const first = finished.findIndex((stage, i) => stage !== i);
  if (first < 0) return [];
  const last = finished.at(-1)!;
  const others = last - finished.length;
  const what = `stage ${first} ${others === 0 ? "is" : `and ${others} more are`} missing in ${layout.stages(folder)}`;
  return [`${what}, but stage ${last} is finished: the run goes on from there`];
}

/**
 * Checks that a stage is finished and has what the next one begins with: weights and optimiser state.
 *
 * @param stage -1: what the first one begins with, which is always there
 * @throws InputError
 */
export function expectState(reader: RunReader, stage: number): void {
  if (stage < 0) return;
  if (!reader.has(stage, "metrics")) {
    throw new InputError(`Expected stage ${stage} to be finished before stage ${stage + 1} in ${reader.folder}`);
  }
  if (!reader.has(stage, "optimizer")) {
    throw new InputError(
      `Expected the optimiser state of stage ${stage} in ${reader.folder} but it is gone; record.optimizers says how many are kept`,
    );
  }
  if (!reader.has(stage, "lora") && !reader.has(stage, "denoiser")) {
    throw new InputError(`Expected the weights of stage ${stage} in ${reader.folder} but they are gone`);
  }
}

/** The resolved config of a run's folder. @throws ConfigError naming the file */
export function configOfFolder(reader: RunReader): Config {
  try {
    return resolveConfig(reader.config());
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new ConfigError(error.problems.map((problem) => `${reader.folder}/config.json: ${problem}`));
  }
}
