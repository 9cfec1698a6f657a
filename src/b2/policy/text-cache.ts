/**
 * A cache of encoded prompts: each prompt is encoded once and kept on the device while there is room.
 *
 * Prompts are encoded one at a time, because the last bits of a prompt's states depend on its batch: otherwise a
 * resumed run, which starts with an empty cache, would diverge from an uninterrupted one.
 */
import { catPrompts, type DiffusionModel, type PromptEmbeds } from "../../pipeline/index.js";
import { keep, tidy, type Tensor } from "../../torch/index.js";

/** Bytes of encoded text to keep, unless a single batch needs more: 3,300 prompts of SD 1, 840 of SDXL in float32. */
const BYTES_KEPT = 512 * 2 ** 20;

export class TextCache {
  readonly #model: Pick<DiffusionModel, "encodePrompts">;
  readonly #bytesKept: number;
  /** One row per prompt, least recently used first. */
  readonly #known = new Map<string, PromptEmbeds>();
  #bytes = 0;

  constructor(model: Pick<DiffusionModel, "encodePrompts">, { bytesKept = BYTES_KEPT }: { bytesKept?: number } = {}) {
    this.#model = model;
    this.#bytesKept = bytesKept;
  }

  /** Bytes that the cached texts take on the device. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The embeddings of these prompts, one row each; the caller disposes of them. */
  embeds(prompts: readonly string[]): PromptEmbeds {
    const unique = [...new Set(prompts)];
    const found = unique.map((prompt) => this.#encoded(prompt));
    const rows = new Map(unique.map((prompt, row) => [prompt, row]));
    const embeds = tidy(() => catPrompts(found).select(prompts.map((prompt) => rows.get(prompt)!)));
    this.#forget();
    return embeds;
  }

  dispose(): void {
    for (const embeds of this.#known.values()) embeds.dispose();
    this.#known.clear();
    this.#bytes = 0;
  }

  #encoded(prompt: string): PromptEmbeds {
    let embeds = this.#known.get(prompt);
    if (embeds === undefined) {
      embeds = tidy(() => kept(this.#model.encodePrompts([prompt])));
      this.#bytes += bytesOf(embeds);
    }
    this.#known.delete(prompt);
    this.#known.set(prompt, embeds);
    return embeds;
  }

  /** Frees the least recently used texts until the cache fits its limit. */
  #forget(): void {
    for (const [prompt, embeds] of this.#known) {
      if (this.#bytes <= this.#bytesKept) return;
      this.#known.delete(prompt);
      this.#bytes -= bytesOf(embeds);
      embeds.dispose();
    }
  }
}

const tensorsOf = ({ states }: PromptEmbeds): Tensor[] => Object.values(states).filter((x) => x !== undefined);

function kept(embeds: PromptEmbeds): PromptEmbeds {
  for (const tensor of tensorsOf(embeds)) keep(tensor);
  return embeds;
}

const BYTES: Readonly<Record<string, number>> = { float16: 2, bfloat16: 2, float64: 8, int64: 8 };

const bytesOf = (embeds: PromptEmbeds): number =>
  tensorsOf(embeds).reduce((sum, { numel, dtype }) => sum + numel * (BYTES[dtype] ?? 4), 0);
