/**
 * Low-rank adapters on the layers of a model: y = W x + weight (alpha / rank) B A x with A [rank, in] and B [out, rank]
 * trained and W frozen. For a convolution, A is a convolution with the same kernel and stride, and B a 1x1 one. Source:
 * "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), with the keys and the initialisation of
 * PEFT.
 *
 * A, B and their product are float32, whatever the model's dtype. Several adapters can be active at once; their outputs
 * add.
 */
import { InputError } from "../base/errors.js";
import { nearest } from "../base/nearest.js";
import { Conv2d, fanInUniform, Linear, type LayerAdapter, type Module } from "../nn/index.js";
import { SafetensorsError, TensorCheck } from "../safetensors/index.js";
import {
  addmm_,
  conv2d,
  inference,
  keep,
  linear,
  noGrad,
  tidy,
  zeros,
  type Device,
  type Generator,
  type Tensor,
} from "../torch/index.js";
import type { KohyaOptions } from "./kohya.js";
import type { Kernel, LoraLayer } from "./layer.js";
import { readLora, writeLora, type WriteLoraOptions } from "./lora-file.js";
import type { LoraPart } from "./names.js";

/** The projections of every attention of a UNet. */
export const attentionProjections: readonly string[] = ["to_q", "to_k", "to_v", "to_out.0"];

export interface LoraOptions {
  readonly rank?: number;
  /** The adapter's output is scaled by alpha / rank. Default: rank. */
  readonly alpha?: number;
  /** Layers whose path equals one of these or ends with one, as in PEFT. */
  readonly targetModules?: readonly string[];
  /** Which model of the pipeline is adapted, as named in files. Default `unet`. */
  readonly part?: LoraPart;
}

/** A layer that can be adapted. */
type Adaptable = Linear | Conv2d;

/** A layer with the A and B of an adapter. */
interface AdaptedLayer {
  readonly layer: Adaptable;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly alpha: number;
}

/** One layer's share of a LoraAdapter. */
class LoraLayerAdapter implements LayerAdapter, AdaptedLayer {
  readonly layer: Adaptable;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly alpha: number;
  readonly #adapter: { readonly enabled: boolean; readonly weight: number };

  constructor(adapter: { readonly enabled: boolean; readonly weight: number }, { layer, a, b, alpha }: AdaptedLayer) {
    this.#adapter = adapter;
    this.layer = layer;
    this.a = keep(a).requiresGrad_();
    this.b = keep(b).requiresGrad_();
    this.alpha = alpha;
  }

  /** The factor of B A: weight * alpha / rank. */
  get scale(): number {
    return (this.#adapter.weight * this.alpha) / this.a.size(0);
  }

  addTo(input: Tensor, output: Tensor): Tensor {
    if (!this.#adapter.enabled) return output;
    const low = linear(input.dtype === "float32" ? input : input.to({ dtype: "float32" }), this.a); // [..., rank]
    // No gradient needs the layer's own output, so the product is added in place.
    if (output.dtype === "float32" && output.ndim === 2) {
      return addmm_(output, low, this.b.transpose(0, 1), { alpha: this.scale });
    }
    // The sum is float32 and rounded once to the output's dtype, as in PEFT.
    return output.add_(linear(this.#scaled(low), this.b));
  }

  addToImage(input: Tensor, output: Tensor, options: { readonly stride: number; readonly padding: number }): Tensor {
    if (!this.#adapter.enabled) return output;
    const [rank, outputs] = [this.a.size(0), this.b.size(0)];
    const [height, width] = kernelOf(this.layer) ?? [1, 1];
    const down = this.a.reshape([rank, -1, height, width]);
    const low = conv2d(input.to({ dtype: "float32" }), down, undefined, options); // [B, rank, H', W']
    return output.add_(conv2d(this.#scaled(low), this.b.reshape([outputs, rank, 1, 1])));
  }

  /** Of the smallest tensor on the way, and none of the usual scale 1. */
  #scaled(low: Tensor): Tensor {
    return this.scale === 1 ? low : low.mul(this.scale);
  }

  /** B A scaled, [out, in]. */
  product(): Tensor {
    return this.b.matmul(this.a).mul(this.scale);
  }
}

/** The adapter of one model: an A and a B for each adapted layer. */
export class LoraAdapter {
  /** Whether the adapter takes part in the forward pass. */
  enabled = true;
  /** A factor of the adapter's output, on top of alpha / rank. */
  weight = 1;
  /** `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, in the model's order, with requiresGrad. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  /** Which model of the pipeline is adapted, as named in files. */
  readonly part: LoraPart;
  readonly #model: Module;
  readonly #layers: readonly LoraLayerAdapter[];
  readonly #targetModules: readonly string[] | undefined;

  /** Takes ownership of the layers' tensors. */
  private constructor(
    model: Module,
    part: LoraPart,
    layers: readonly AdaptedLayer[],
    targetModules?: readonly string[],
  ) {
    this.#model = model;
    this.part = part;
    this.#targetModules = targetModules;
    this.#layers = layers.map((layer) => new LoraLayerAdapter(this, layer));
    this.parameters = new Map(
      this.#layers.flatMap(({ layer: { path }, a, b }) => [
        [`${path}.lora_A.weight`, a],
        [`${path}.lora_B.weight`, b],
      ]),
    );
    for (const own of this.#layers) own.layer.adapters.push(own);
  }

  /**
   * Adds an adapter that has no effect yet: A is drawn as PEFT does (kaiming_uniform, a = sqrt(5)), B is zero.
   *
   * @throws InputError when a target matches no layer, or one that is neither linear nor a convolution
   */
  static inject(
    model: Module,
    { generator, ...options }: LoraOptions & { readonly generator: Generator },
  ): LoraAdapter {
    const { rank = 4, alpha = rank, targetModules = attentionProjections, part = "unet" } = options;
    if (!Number.isInteger(rank) || rank < 1) {
      throw new RangeError(`Expected a positive integer for rank but received ${rank}`);
    }
    const fresh = targetsOf(model, targetModules).map((layer): AdaptedLayer => {
      const [outputs, inputs] = widths(layer);
      const a = fanInUniform(inputs)([rank, inputs], { generator, ...held(layer) });
      return { layer, a, b: zeros([outputs, rank], held(layer)), alpha };
    });
    return new LoraAdapter(model, part, fresh, targetModules);
  }

  /**
   * Adds the adapter of a file, or of a folder with `pytorch_lora_weights.safetensors`, to a model. Rank, alpha and
   * layers come from the file.
   *
   * @param options.part which of a pipeline's models it is. Default `unet`
   * @throws InputError naming the file and each key that does not fit the model, which is unchanged then
   */
  static fromPretrained(
    model: Module,
    fileOrFolder: string,
    { part = "unet" }: { readonly part?: LoraPart } = {},
  ): LoraAdapter {
    const [adapter] = loadLora({ [part]: model }, fileOrFolder, { part });
    return adapter!;
  }

  /** Adds layers that are known to fit, see loadLora. */
  static ofLayers(model: Module, part: LoraPart, layers: readonly LoraLayer[]): LoraAdapter {
    const modules = model.modules();
    const adapted = layers.map(({ path, a, b, alpha }): AdaptedLayer => {
      const layer = modules.get(path) as Adaptable;
      // Copies, so that the file can be closed, and because a tensor in training must not be a view.
      const own = (matrix: Tensor): Tensor => tidy(() => matrix.clone().to(held(layer)));
      return { layer, a: own(a), b: own(b), alpha };
    });
    return new LoraAdapter(model, part, adapted);
  }

  /** The layers as stored in files. */
  layers(): LoraLayer[] {
    return this.#layers.map(({ layer, a, b, alpha }) => {
      return { part: this.part, path: layer.path, a, b, alpha, kernel: kernelOf(layer) };
    });
  }

  /**
   * Writes `pytorch_lora_weights.safetensors` (or the given file) with PEFT's keys under the part's name, or with
   * kohya's names for the model's family.
   *
   * @param options.family for a text encoder in kohya's format: whose it is, which its layers cannot show
   * @throws InputError for layers without a name in kohya's format
   */
  save(fileOrFolder: string, { form = "peft", family }: Pick<WriteLoraOptions, "form" | "family"> = {}): void {
    writeLora(fileOrFolder, this.layers(), {
      form,
      ...(this.part === "unet" && kohyaOptionsOf(this.#model)),
      ...(family !== undefined && { family }),
      ...(this.#targetModules && { targetModules: this.#targetModules }),
    });
  }

  /**
   * Loads the values of a file into this adapter.
   *
   * @throws InputError naming the file and each key that is missing, unexpected or misshaped; the adapter is unchanged
   *   then
   */
  load(fileOrFolder: string): void {
    const nameOf = ({ part, path }: Pick<LoraLayer, "part" | "path">): string => `${part}.${path}`;
    tidy(() => {
      const { file, layers } = readLora(fileOrFolder, { part: this.part });
      const stored = new Map(layers.map((layer) => [nameOf(layer), layer]));
      const check = new TensorCheck();
      const copies: [to: Tensor, from: Tensor][] = [];
      for (const own of this.layers()) {
        const name = nameOf(own);
        const other = stored.get(name);
        stored.delete(name);
        const [a, b] = [other?.a, other?.b];
        const fitsA = check.fits(`${name}.lora_A.weight`, { shape: own.a.shape }, a);
        const fitsB = check.fits(`${name}.lora_B.weight`, { shape: own.b.shape }, b);
        if (!fitsA || !fitsB) continue;
        const rank = own.a.size(0);
        if (other!.alpha !== own.alpha) {
          check.add(name, `Expected ${own.alpha} / ${rank} for alpha / rank but received ${other!.alpha} / ${rank}`);
        }
        copies.push([own.a, a], [own.b, b]);
      }
      for (const name of stored.keys()) check.unexpected(name);
      check.finish(file, "the layers of this adapter");
      noGrad(() => {
        for (const [to, from] of copies) to.copy_(from);
      });
    });
  }

  /** Removes the adapter from the model. Its parameters stay in memory until `dispose`. */
  remove(): void {
    for (const own of this.#layers) {
      const at = own.layer.adapters.indexOf(own);
      if (at >= 0) own.layer.adapters.splice(at, 1);
    }
  }

  /** Merges the adapter into the model's weights, and removes it. This cannot be undone. */
  merge(): void {
    LoraAdapter.merge([this]);
  }

  /** Merges several adapters: they are summed in float32, so that a half-precision weight is rounded only once. */
  static merge(adapters: readonly LoraAdapter[]): void {
    const byLayer = new Map<Adaptable, LoraLayerAdapter[]>();
    for (const one of adapters.flatMap((adapter) => adapter.#layers)) {
      byLayer.set(one.layer, [...(byLayer.get(one.layer) ?? []), one]);
    }
    for (const [{ weight }, all] of byLayer) {
      inference(() => {
        const merged = weight.to({ dtype: "float32" }).clone();
        for (const one of all) merged.add_(one.product().reshape(weight.shape));
        weight.copy_(merged);
      });
    }
    for (const adapter of adapters) adapter.remove();
  }

  /** Removes the adapter from the model and frees its parameters. */
  dispose(): void {
    this.remove();
    for (const parameter of this.parameters.values()) parameter.dispose();
  }
}

/** The models of a pipeline, by their names in LoRA files. */
export type LoraModels = Readonly<Record<LoraPart, Module | undefined>>;

export interface LoadLoraOptions {
  /** A factor of the adapters' output, on top of alpha / rank. Default 1. */
  readonly weight?: number;
  /** The model of keys that name none. Default: `unet`, or `text_encoder` if the paths are those of a text encoder. */
  readonly part?: LoraPart;
}

/**
 * Adds the adapters of a file to a pipeline's models, one adapter per model.
 *
 * @throws InputError naming the file and each layer that does not fit; the models are unchanged then
 */
export function loadLora(
  models: LoraModels,
  fileOrFolder: string,
  { weight = 1, part }: LoadLoraOptions = {},
): LoraAdapter[] {
  return tidy(() => {
    const { file, layers } = readLora(fileOrFolder, part === undefined ? {} : { part });
    const named = layers.map((layer) => ({ ...layer, path: pathIn(models[layer.part], layer.path) }));
    const unfits = named.map((layer) => unfit(models[layer.part], layer)).filter((own) => own.length > 0);
    const problems = unfits.flat();
    if (problems.length > 0) {
      const more = problems.length > 8 ? `\n  and ${problems.length - 8} more` : "";
      throw new SafetensorsError(
        file,
        `Expected a LoRA for this model but received one that differs in ${unfits.length} of ` +
          `${layers.length} layers:\n  ${problems.slice(0, 8).join("\n  ")}${more}`,
      );
    }
    return [...new Set(named.map((layer) => layer.part))].map((part) => {
      const own = named.filter((layer) => layer.part === part);
      const adapter = LoraAdapter.ofLayers(models[part]!, part, own);
      adapter.weight = weight;
      return adapter;
    });
  });
}

/** transformers from 5.0 omits `text_model` from a text encoder's paths. */
function pathIn(model: Module | undefined, path: string): string {
  const without = path.replace(/^text_model\./, "");
  return [path, without, `text_model.${without}`].find((name) => model?.modules().has(name)) ?? path;
}

/** Why a layer of a file does not fit the model; undefined if it does. */
function unfit(model: Module | undefined, { part, path, a, b }: LoraLayer): string[] {
  if (model === undefined) return [`${part}.${path}: Expected a model with ${part}`];
  const layer = model.modules().get(path);
  if (!isAdaptable(layer)) {
    const received = layer === undefined ? "no such layer" : `a ${layer.constructor.name}`;
    return [`${part}.${path}: Expected a linear layer or a convolution but the model has ${received}`];
  }
  const [outputs, inputs] = widths(layer);
  const check = new TensorCheck();
  check.fits(`${part}.${path}.lora_A`, { shape: [a.size(0), inputs] }, a);
  check.fits(`${part}.${path}.lora_B`, { shape: [outputs, b.size(1)] }, b);
  return [...check.problems];
}

function isAdaptable(layer: Module | undefined): layer is Adaptable {
  return layer instanceof Linear || layer instanceof Conv2d;
}

const kernelOf = ({ weight }: Adaptable): Kernel | undefined =>
  weight.ndim === 4 ? [weight.size(2), weight.size(3)] : undefined;

/** Rows and columns of B A. */
function widths({ weight: { shape } }: Adaptable): [outputs: number, inputs: number] {
  const [outputs, ...inputs] = shape as [number, ...number[]];
  return [outputs, inputs.reduce((product, size) => product * size, 1)];
}

function held({ weight: { device } }: Adaptable): { dtype: "float32"; device: Device } {
  return { dtype: "float32", device };
}

/**
 * The layers that the targets match, in the model's order.
 *
 * @throws InputError naming every target without a layer, with a suggestion
 */
function targetsOf(model: Module, targets: readonly string[]): Adaptable[] {
  const modules = [...model.modules()];
  const problems: string[] = [];
  const wanted = new Set<Module>();
  for (const target of targets) {
    const found = modules.filter(([path]) => path === target || path.endsWith(`.${target}`));
    const other = found.find(([, module]) => !isAdaptable(module));
    if (found.length === 0) {
      const meant = nearest(target, targetNames(modules));
      problems.push(`received "${target}"${meant === undefined ? "" : `; did you mean "${meant}"?`}`);
    } else if (other !== undefined) {
      problems.push(`received "${target}", which is a ${other[1].constructor.name} at ${other[0]}`);
    }
    for (const [, module] of found) wanted.add(module);
  }
  if (problems.length > 0) {
    throw new InputError(
      `Expected linear layers or convolutions of the model for lora.targetModules but ${problems.join("\n  ")}`,
    );
  }
  return modules
    .map(([, module]) => module)
    .filter(isAdaptable)
    .filter((layer) => wanted.has(layer));
}

/** All suffixes of layers' paths, the shortest first: "to_q", "to_out.0", "attn1.to_q". */
function targetNames(modules: readonly (readonly [path: string, module: Module])[]): string[] {
  const ends = modules
    .filter(([, module]) => isAdaptable(module))
    .flatMap(([path]) => path.split(".").map((_, i, names) => names.slice(i)))
    .filter((names) => !/^\d+$/.test(names[0]!))
    .sort((a, b) => a.length - b.length);
  return [...new Set(ends.map((names) => names.join(".")))];
}

/** Properties of a UNet that kohya's names depend on. */
function kohyaOptionsOf(unet: Module): KohyaOptions {
  const { config = {} } = unet as { config?: Readonly<Record<string, unknown>> };
  const layers = [config["layers_per_block"]].flat()[0];
  const isXL = config["addition_embed_type"] === "text_time";
  return {
    family: isXL ? "sdxl" : config["cross_attention_dim"] === 1024 ? "sd2" : "sd1",
    ...(typeof layers === "number" && { layersPerBlock: layers }),
  };
}
