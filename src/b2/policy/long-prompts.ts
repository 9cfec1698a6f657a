/** Prompts that a model's text encoder does not read to their ends. */
import { warn, type Progress } from "../../base/progress.js";
import { show } from "../../base/show.js";
import type { DiffusionModel } from "../../pipeline/index.js";

/** Warns once of all prompts whose ends have no effect. */
export function warnOfLongPrompts(
  model: Pick<DiffusionModel, "longPrompts">,
  prompts: readonly string[],
  progress: Progress,
): void {
  const all = [...new Set(prompts)];
  const long = model.longPrompts?.(all) ?? [];
  const [first] = long;
  if (first === undefined) return;
  const { prompt, tokens, most } = first;
  const text =
    `${long.length} of ${all.length} prompts have more than the ${most} tokens that the text encoder reads, and their ` +
    `ends have no effect: ${show(prompt, 80)} has ${tokens}`;
  warn(progress, { kind: "long-prompts", text });
}
