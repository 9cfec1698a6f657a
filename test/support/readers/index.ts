/** All readers under test, in groups that run in one process each. */
import { answerReaders } from "./answers.js";
import { imageReaders } from "./images.js";
import type { ReaderUnderTest } from "./reader.js";
import { runReaders } from "./runs.js";
import { settingReaders } from "./settings.js";
import { weightReaders } from "./weights.js";

export const readerGroups: Readonly<Record<string, readonly ReaderUnderTest[]>> = {
  weights: weightReaders,
  settings: settingReaders,
  runs: runReaders,
  answers: [...answerReaders, ...imageReaders],
};
