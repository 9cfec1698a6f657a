/**
 * Encoded prompts, a row each: named tensors whose first dimension is the batch. Which names there are is the family's
 * own business; here rows are selected, joined and repeated. A plain object, so that `tidy` keeps the tensors of one that
 * is returned to it.
 */
import { cat, tensor, tidy, type Tensor } from "../torch/index.js";

/** Tensors of one batch, [B, ...] each. */
export type States = { readonly [name: string]: Tensor | undefined };

export interface PromptEmbeds<S extends States = States> {
  readonly states: S;
  /** B */
  readonly rows: number;
  /** A new batch of these rows, each as often as it is named. */
  select(rows: readonly number[]): PromptEmbeds<S>;
  dispose(): void;
}

/** @throws RangeError when the tensors are not of one batch */
export function promptEmbeds<S extends States>(states: S): PromptEmbeds<S> {
  const tensors = Object.values<Tensor | undefined>(states).filter((x) => x !== undefined);
  const rows = tensors[0]?.size(0) ?? 0;
  const other = tensors.find((x) => x.size(0) !== rows);
  if (other !== undefined) throw new RangeError(`Expected ${rows} rows of every state but received ${other.size(0)}`);
  return {
    states,
    rows,
    select: (indices) =>
      eachState(states, (x) => x.indexSelect(0, tensor(BigInt64Array.from(indices, BigInt), { device: x.device }))),
    dispose: () => {
      for (const x of tensors) x.dispose();
    },
  };
}

/**
 * A prompt for each row of a batch: these, or a single one for all, without a copy.
 *
 * @throws RangeError for any other number of prompts
 */
export function expandPrompts<S extends States>(embeds: PromptEmbeds<S>, batch: number): PromptEmbeds<S> {
  if (embeds.rows !== 1 && embeds.rows !== batch)
    throw new RangeError(`Expected 1 or ${batch} prompts but received ${embeds.rows}`);
  return eachState(embeds.states, (x) => x.expand([batch, ...x.shape.slice(1)]));
}

/** The rows of several batches, one after the other. */
export function catPrompts<S extends States>(parts: readonly PromptEmbeds<S>[]): PromptEmbeds<S> {
  const names = Object.keys(parts[0]?.states ?? {});
  const joined = names.map((name) => [name, cat(parts.map(({ states }) => states[name]!))] as const);
  return promptEmbeds(Object.fromEntries(joined) as unknown as S);
}

function eachState<S extends States>(states: S, change: (x: Tensor) => Tensor): PromptEmbeds<S> {
  const present = Object.entries<Tensor | undefined>(states).filter((entry) => entry[1] !== undefined);
  const changed = present.map(([name, x]) => [name, tidy(() => change(x!))] as const);
  return promptEmbeds(Object.fromEntries(changed) as unknown as S);
}
