/**
 * A cache of encoded prompts: each prompt is encoded once and kept on the device while there is room, or in main memory.
 *
 * Prompts are encoded one at a time, because the last bits of a prompt's states depend on its batch: otherwise a
 * resumed run, which starts with an empty cache, would diverge from an uninterrupted one.
 */
import { checkInterrupted, type RunContext } from "../../base/progress.js";
import { catPrompts, promptsOn, type DiffusionModel, type PromptEmbeds } from "../../pipeline/index.js";
import { keep, tidy, yieldToEventLoop, type Device, type Tensor } from "../../torch/index.js";

/** Bytes of encoded text to keep, unless a single batch needs more: 3,300 prompts of SD 1, 840 of SDXL in float32. */
const BYTES_KEPT = 512 * 2 ** 20;

export interface TextCacheOptions {
  readonly bytesKept?: number;
  /** Keeps texts in main memory, and copies those that are asked for to the device. Default: on the device. */
  readonly inMainMemory?: boolean;
}

export class TextCache {
  readonly #model: Pick<DiffusionModel, "encodePrompts">;
  readonly #inMainMemory: boolean;
  #bytesKept: number;
  #device: Device | undefined;
  /** One row per prompt, least recently used first. */
  readonly #known = new Map<string, PromptEmbeds>();
  #bytes = 0;

  constructor(
    model: Pick<DiffusionModel, "encodePrompts">,
    { bytesKept = BYTES_KEPT, inMainMemory = false }: TextCacheOptions = {},
  ) {
    this.#model = model;
    this.#bytesKept = bytesKept;
    this.#inMainMemory = inMainMemory;
  }

  /** Bytes that the cached texts take. */
  get bytes(): number {
    return this.#bytes;
  }

  /** The embeddings of these prompts, one row each; the caller disposes of them. */
  embeds(prompts: readonly string[]): PromptEmbeds {
    const unique = [...new Set(prompts)];
    const found = unique.map((prompt) => this.#encoded(prompt));
    const rows = new Map(unique.map((prompt, row) => [prompt, row]));
    const embeds = tidy(() => {
      const asked = catPrompts(found).select(prompts.map((prompt) => rows.get(prompt)!));
      return this.#inMainMemory ? promptsOn(asked, this.#device!) : asked;
    });
    this.#forget();
    return embeds;
  }

  /**
   * Encodes the prompts that are to come, one after the other, and makes room for them, so that the model need not
   * encode again before they are used.
   *
   * @param options `most`: bytes that they may take; the first of the prompts count
   * @throws Interrupted when the signal aborts; what is encoded stays
   */
  async encodeAhead(
    prompts: readonly string[],
    { progress, signal }: RunContext,
    { most = Infinity }: { most?: number } = {},
  ): Promise<void> {
    const [first, ...others] = new Set(prompts);
    if (first === undefined) return;
    const bytes = bytesOf(this.#encoded(first));
    const fitting = others.slice(0, Math.max(0, Math.floor(most / bytes) - 1));
    this.#bytesKept = Math.max(this.#bytesKept, bytes * (fitting.length + 1));
    const unknown = fitting.filter((prompt) => !this.#known.has(prompt));
    if (unknown.length > 0) {
      const task = progress.task("encoding", unknown.length, "prompts");
      try {
        for (const prompt of unknown) {
          checkInterrupted(signal);
          this.#encoded(prompt);
          task.advance(1);
          await yieldToEventLoop();
        }
      } finally {
        task.done();
      }
    }
    // These are what is used last.
    for (const prompt of [first, ...fitting]) this.#encoded(prompt);
    this.#forget();
  }

  dispose(): void {
    for (const embeds of this.#known.values()) embeds.dispose();
    this.#known.clear();
    this.#bytes = 0;
  }

  #encoded(prompt: string): PromptEmbeds {
    let embeds = this.#known.get(prompt);
    if (embeds === undefined) {
      embeds = tidy(() => kept(this.#encode(prompt)));
      this.#bytes += bytesOf(embeds);
    }
    this.#known.delete(prompt);
    this.#known.set(prompt, embeds);
    return embeds;
  }

  #encode(prompt: string): PromptEmbeds {
    const embeds = this.#model.encodePrompts([prompt]);
    this.#device ??= tensorsOf(embeds)[0]?.device;
    return this.#inMainMemory ? promptsOn(embeds, "cpu") : embeds;
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
