/**
 * Encoded prompts: what the UNet attends to, and SDXL's pooled text beside it. A plain object, so that `tidy` keeps the
 * tensors of one that is returned to it.
 */
import { cat, tensor, tidy, type Tensor } from "../torch/index.js";

export interface PromptEmbeds {
  /** [B, 77, D] */
  readonly hiddenStates: Tensor;
  /** SDXL only: [B, P] */
  readonly pooled?: Tensor;
  /** SDXL only, where the sizes are not to be the image's own: [B, 6], see AddedConditions. */
  readonly timeIds?: Tensor;
  /** A new batch of these rows, each as often as it is named. */
  select(rows: readonly number[]): PromptEmbeds;
  dispose(): void;
}

export function promptEmbeds(hiddenStates: Tensor, pooled?: Tensor, timeIds?: Tensor): PromptEmbeds {
  const states = { hiddenStates, ...(pooled && { pooled }), ...(timeIds && { timeIds }) };
  return {
    ...states,
    select: (rows) => selectRows(states, rows),
    dispose: () => {
      for (const tensor of Object.values(states)) tensor.dispose();
    },
  };
}

type States = Pick<PromptEmbeds, "hiddenStates" | "pooled" | "timeIds">;

function selectRows(states: States, rows: readonly number[]): PromptEmbeds {
  return each(states, (x) => x.indexSelect(0, tensor(BigInt64Array.from(rows, BigInt), { device: x.device })));
}

/**
 * A prompt for each row of a batch: these, or a single one for all, without a copy.
 *
 * @throws RangeError for any other number of prompts
 */
export function expandPrompts(states: States, batch: number): PromptEmbeds {
  const prompts = states.hiddenStates.size(0);
  if (prompts !== 1 && prompts !== batch)
    throw new RangeError(`Expected 1 or ${batch} prompts but received ${prompts}`);
  return each(states, (x) => x.expand([batch, ...x.shape.slice(1)]));
}

/** The rows of several batches, one after the other. */
export function catPrompts(parts: readonly States[]): PromptEmbeds {
  const rows = (tensors: readonly (Tensor | undefined)[]) => {
    const present = tensors.filter((states) => states !== undefined);
    return present.length === 0 ? undefined : cat(present);
  };
  return promptEmbeds(
    cat(parts.map((part) => part.hiddenStates)),
    rows(parts.map((part) => part.pooled)),
    rows(parts.map((part) => part.timeIds)),
  );
}

function each({ hiddenStates, pooled, timeIds }: States, change: (states: Tensor) => Tensor): PromptEmbeds {
  return promptEmbeds(
    tidy(() => change(hiddenStates)),
    pooled && tidy(() => change(pooled)),
    timeIds && tidy(() => change(timeIds)),
  );
}
