/**
 * Decides whether a run starts, restarts or resumes in its folder, by cheap checks that come before anything is
 * downloaded, loaded or written.
 */
import { InputError } from "../base/errors.js";
import { show } from "../base/show.js";
import { RunReader, RunWriter } from "../runs/index.js";
import type { Device } from "../torch/index.js";
import { ConfigError, differences, resolveConfig, type Difference } from "./config/resolve.js";
import type { Config } from "./config/schema.js";
import { openDevice } from "./policy/device.js";
import { readPromptLists, type PromptLists } from "./rollout/prompts.js";

export interface RunPlan {
  readonly folder: string;
  readonly config: Config;
  readonly lists: PromptLists;
  readonly device: Device;
  /** Whether the calling program passes its own reward, which a config cannot name. */
  readonly programReward: boolean;
  /** `resume`: the folder holds a run. `restart`: it holds one that has come to nothing yet, begun with another config. */
  readonly mode: "new" | "restart" | "resume";
  /** Keys that a resume changes; none of them decides what is computed. */
  readonly changes: readonly Difference[];
}

/**
 * Checks prompts, folder and device, in this order.
 *
 * @throws InputError for missing prompts, a folder of another run, or a device that cannot compute
 */
export function planRun(folder: string, config: Config, { programReward }: { programReward: boolean }): RunPlan {
  const lists = readPromptLists(config);
  const begun = RunReader.exists(folder) ? compareWithRun(folder, config, programReward) : undefined;
  if (begun === undefined) RunWriter.expectNew(folder);
  const device = openDevice(config);
  return { folder, config, lists, device, programReward, ...(begun ?? { mode: "new", changes: [] }) };
}

/** Creates, empties or opens the run folder, as planned. */
export function openRunFolder({ folder, config, mode, changes, programReward }: RunPlan): RunWriter {
  const begun = { config, reward: programReward ? "program" : "config" } as const;
  if (mode === "new") return RunWriter.create(folder, begun);
  if (mode === "restart") return RunWriter.recreate(folder, begun);
  const writer = new RunWriter(folder);
  if (changes.length > 0) writer.writeConfig(config);
  return writer;
}

/** A difference as text: `model.threads: 1 -> 2`. */
export const showDifference = ({ key, before, after }: Difference): string =>
  `${key}: ${show(before, 60)} -> ${show(after, 60)}`;

function compareWithRun(folder: string, config: Config, programReward: boolean): Pick<RunPlan, "mode" | "changes"> {
  const reader = new RunReader(folder);
  const changes = differences(configOfFolder(reader), config);
  const deciding = changes.filter(({ affects }) => affects === undefined);
  const isProgram = reader.run.reward === "program";
  // What the phases of the first stage have left is work as well.
  const hasWork = reader.finishedStages().length > 0 || reader.has(0, "sampled");
  if (!hasWork) {
    const isOther = deciding.length > 0 || isProgram !== programReward;
    return { mode: isOther ? "restart" : "resume", changes: isOther ? [] : changes };
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
  return { mode: "resume", changes };
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
