/** The layers of the models as entries of a ledger: what each makes, and what its backward pass needs. */
import { Ledger, type Sized } from "./ledger.js";

/** Elements of the score matrix that attention holds at a time, see src/torch/attention.ts. */
const MAX_SCORES = 2 ** 21;

/** Scores of a head from which heads go one by one, see native/attention.cc. */
const HEAD_ALONE = 2 ** 19;

const FLOAT = 4;

/** How a network computes, and what of it is trained. */
export interface NetworkSetting {
  /** Bytes of an element of the activations. */
  readonly itemBytes: number;
  /** Bytes of a weight. In another format they are converted for each call. */
  readonly weightBytes: number;
  /** Whether a convolution larger than 1x1 copies its kernel, as oneDNN does on a CPU. */
  readonly copiesKernels: boolean;
  /** Whether attention is libtorch's own (2.x), which holds no scores. */
  readonly fusedAttention: boolean;
  /** What is trained: nothing, everything, or adapters of some layers. */
  readonly trains: "nothing" | "all" | { readonly rank: number; readonly targets: readonly string[] };
}

/** A batch for a denoiser. */
export interface DenoiserBatch {
  /** Rows, both passes of guidance counted. */
  readonly rows: number;
  /** Of the latents. */
  readonly height: number;
  readonly width: number;
  /** Tokens of the text. */
  readonly tokens: number;
}

/** A network's layers, with a batch of images in them. */
export class Layers extends Ledger {
  readonly batch: number;
  readonly #setting: NetworkSetting;

  constructor(batch: number, setting: NetworkSetting, recording = false) {
    super({ itemBytes: setting.itemBytes, recording });
    this.batch = batch;
    this.#setting = setting;
  }

  /** Group or layer normalisation. */
  norm(x: Sized): Sized {
    return this.apply(x.elements, { inputs: [x], keeps: [x], trains: this.#trainsAll });
  }

  /** Root mean square normalisation over so many features, computed in float32. */
  rmsNorm(x: Sized, features: number): Sized {
    return this.tidy(() => {
      const isWide = this.itemBytes === FLOAT;
      const wide = isWide ? x : this.apply(x.elements, { inputs: [x], itemBytes: FLOAT });
      const squares = this.apply(x.elements, { inputs: [wide], keeps: [wide], itemBytes: FLOAT });
      // libtorch's mean keeps what it is the mean of.
      const mean = { inputs: [squares], keeps: [squares], keepsOutput: true, itemBytes: FLOAT };
      const scale = this.apply(x.elements / features, mean);
      const scaled = this.apply(x.elements, { inputs: [wide, scale], keeps: [wide], itemBytes: FLOAT });
      const normed = isWide ? scaled : this.apply(x.elements, { inputs: [scaled] });
      return this.apply(x.elements, { inputs: [normed], ...(this.#trainsAll && { keeps: [normed], trains: true }) });
    });
  }

  /** SiLU of a tensor that is used nowhere else: in place where no gradient needs it. */
  silu(x: Sized): Sized {
    return x.grad ? this.apply(x.elements, { inputs: [x], keeps: [x] }) : x;
  }

  /** @param rows pixels of the output, over the batch */
  conv(name: string, x: Sized, rows: number, [inputs, outputs, kernel]: readonly [number, number, number]): Sized {
    const elements = inputs * outputs * kernel * kernel;
    const weight = this.#converted(elements);
    const scratch = this.#setting.copiesKernels && kernel > 1 ? elements * this.itemBytes : 0;
    const options = { inputs: [x], keeps: [x, ...weight], scratch, ...this.#trained(elements + scratch / FLOAT) };
    const y = this.apply(rows * outputs, options);
    weight.forEach((one) => this.dispose(one));
    return this.#adapted(name, x, y, rows);
  }

  /** @param x [rows, inputs] */
  linear(name: string, x: Sized, inputs: number, outputs: number): Sized {
    const weight = this.#converted(inputs * outputs);
    const keeps = [...(this.#trainsAll ? [x] : []), ...weight];
    const rows = x.elements / inputs;
    const y = this.apply(rows * outputs, { inputs: [x], keeps, ...this.#trained(inputs * outputs) });
    weight.forEach((one) => this.dispose(one));
    return this.#adapted(name, x, y, rows);
  }

  /** Scaled dot-product attention of q [batch, heads, N, D] with keys and values of so many tokens. */
  attention(
    q: Sized,
    k: Sized,
    v: Sized,
    { heads, tokens, keys }: { heads: number; tokens: number; keys: number },
  ): Sized {
    const scores = this.batch * heads * tokens * keys;
    const inputs = [q, k, v];
    if (this.#setting.fusedAttention) return this.apply(q.elements, { inputs, keeps: inputs, keepsOutput: true });
    if (scores > MAX_SCORES) {
      const { each, last } = blockOf({ scores, tokens, keys });
      const [scratch, backwardScratch] = [(2 * each + last) * this.itemBytes, each * this.itemBytes];
      return this.apply(q.elements, { inputs, keeps: inputs, keepsOutput: true, scratch, backwardScratch });
    }
    return this.tidy(() => {
      // A product of matrices takes heads before tokens, which are the other way round in memory.
      const [keysCopy, valuesCopy] = [k, v].map((x) => this.apply(x.elements, { inputs: [x] })) as [Sized, Sized];
      const scaled = this.apply(q.elements, { inputs: [q] });
      const product = this.apply(scores, { inputs: [scaled, keysCopy], keeps: [scaled, keysCopy] });
      const probabilities = this.apply(scores, { inputs: [product], keepsOutput: true });
      const attended = this.apply(q.elements, {
        inputs: [probabilities, valuesCopy],
        keeps: [probabilities, valuesCopy],
      });
      return this.apply(q.elements, { inputs: [attended] });
    });
  }

  get #trainsAll(): boolean {
    return this.#setting.trains === "all";
  }

  /** The gradient of a weight before it is added to those of earlier passes. */
  #trained(elements: number): { trains: boolean; backwardScratch: number } {
    return { trains: this.#trainsAll, backwardScratch: this.#trainsAll ? elements * FLOAT : 0 };
  }

  /** The weight in the activations' format, where it is held in another. */
  #converted(elements: number): Sized[] {
    return this.#setting.weightBytes === this.itemBytes ? [] : [this.make(elements)];
  }

  /** The sum with a LoRA's output, in float32. */
  #adapted(name: string, x: Sized, y: Sized, rows: number): Sized {
    const { trains } = this.#setting;
    if (typeof trains === "string" || !trains.targets.some((target) => name === target || name.endsWith(`.${target}`)))
      return y;
    const wide = this.itemBytes === FLOAT ? x : this.apply(x.elements, { inputs: [x], itemBytes: FLOAT });
    const low = this.apply(rows * trains.rank, { inputs: [wide], keeps: [wide], trains: true });
    const product =
      this.itemBytes === FLOAT ? low : this.apply(y.elements, { inputs: [low], keeps: [low], itemBytes: FLOAT });
    return this.add(y, product);
  }
}

/**
 * Scores of a block of query rows, and of the last one, for which new memory is taken before the old is given back:
 * scores and probabilities of each, and in the backward pass their gradients.
 */
function blockOf({ scores, tokens, keys }: { scores: number; tokens: number; keys: number }) {
  const ofRow = tokens * keys >= HEAD_ALONE ? keys : scores / tokens;
  const rows = Math.min(tokens, Math.max(1, Math.floor(MAX_SCORES / ofRow)));
  return { each: rows * ofRow, last: (tokens % rows) * ofRow };
}
