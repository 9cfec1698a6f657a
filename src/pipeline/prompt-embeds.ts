/**
 * Encoded prompts, one row each: named tensors whose first dimension is the batch. Each model family chooses the names.
 * They are plain objects, so that `tidy` keeps the tensors of one that it returns.
 */
import { cat, noGrad, tensor, tidy, type Device, type Tensor } from "../torch/index.js";

/** Named tensors of one batch, [B, ...] each. */
export type States = { readonly [name: string]: Tensor | undefined };

/** A batch of encoded prompts. */
export interface PromptEmbeds<S extends States = States> {
  readonly states: S;
  /** The batch size B. */
  readonly rows: number;
  /** A new batch with these rows, in this order and possibly repeated. */
  select(rows: readonly number[]): PromptEmbeds<S>;
  /** Frees the tensors. */
  dispose(): void;
}

/** Makes a batch of named tensors, which it owns from here on. @throws RangeError if their batch sizes differ */
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
 * One prompt for each row of a batch, as views: the given rows, or a single one repeated.
 *
 * @throws RangeError for any other number of prompts
 */
export function expandPrompts<S extends States>(embeds: PromptEmbeds<S>, batch: number): PromptEmbeds<S> {
  if (embeds.rows !== 1 && embeds.rows !== batch)
    throw new RangeError(`Expected 1 or ${batch} prompts but received ${embeds.rows}`);
  return eachState(embeds.states, (x) => x.expand([batch, ...x.shape.slice(1)]));
}

/** Copies on a device, or views of those that are there already. */
export const promptsOn = <S extends States>({ states }: PromptEmbeds<S>, device: Device): PromptEmbeds<S> =>
  eachState(states, (x) => x.to({ device }));

/** Concatenates several batches. */
export function catPrompts<S extends States>(parts: readonly PromptEmbeds<S>[]): PromptEmbeds<S> {
  const names = Object.keys(parts[0]?.states ?? {});
  const joined = names.map((name) => [name, cat(parts.map(({ states }) => states[name]!))] as const);
  return promptEmbeds(Object.fromEntries(joined) as unknown as S);
}

/** Prompts encoded per batch. */
const PROMPTS_AT_ONCE = 64;

/** Encodes prompts without gradient, each once: a row for each prompt, repeated where the prompt is. */
export function encodeEachOnce<S extends States>(
  prompts: readonly string[],
  encode: (some: readonly string[]) => PromptEmbeds<S>,
): PromptEmbeds<S> {
  const unique = [...new Set(prompts)];
  const rows = new Map(unique.map((prompt, row) => [prompt, row]));
  const embeds = noGrad(() =>
    tidy(() => {
      const parts: PromptEmbeds<S>[] = [];
      for (let start = 0; start < unique.length; start += PROMPTS_AT_ONCE) {
        parts.push(tidy(() => encode(unique.slice(start, start + PROMPTS_AT_ONCE))));
      }
      return parts.length === 1 ? parts[0]! : catPrompts(parts);
    }),
  );
  if (unique.length === prompts.length) return embeds;
  const repeated = embeds.select(prompts.map((prompt) => rows.get(prompt)!));
  embeds.dispose();
  return repeated;
}

function eachState<S extends States>(states: S, change: (x: Tensor) => Tensor): PromptEmbeds<S> {
  const present = Object.entries<Tensor | undefined>(states).filter((entry) => entry[1] !== undefined);
  const changed = present.map(([name, x]) => [name, tidy(() => change(x!))] as const);
  return promptEmbeds(Object.fromEntries(changed) as unknown as S);
}
