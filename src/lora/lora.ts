/**
 * Low-rank adapters on the layers of a model: y = W x + weight (alpha / rank) B A x with A [rank, in] and B [out, rank]
 * trained and W frozen. In a convolution A is one of the same kernel and stride, and B one of 1x1. Source: "LoRA:
 * Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), with the keys and the initialisation of PEFT.
 *
 * A and B are float32 whatever the model is held in, and so is their product. Several adapters add up.
 */
import { Conv2d, fanInUniform, Linear, type LayerBranch, type Module } from "../nn/index.js";
import { SafetensorsError } from "../safetensors/index.js";
import {
  addmm_,
  conv2d,
  keep,
  linear,
  noGrad,
  tidy,
  zeros,
  type Device,
  type Generator,
  type Tensor,
} from "../torch/index.js";
import { readLora, writeLora, type Kernel, type LoraLayer, type WriteLoraOptions } from "./lora-file.js";
import type { LoraPart } from "./names.js";

/** The projections of every attention of a UNet. */
export const attentionProjections: readonly string[] = ["to_q", "to_k", "to_v", "to_out.0"];

export interface LoraOptions {
  readonly rank?: number;
  /** The adapter's output is scaled by alpha / rank. Default: rank. */
  readonly alpha?: number;
  /** Layers whose path is one of these or ends in one, as in PEFT. */
  readonly targetModules?: readonly string[];
}

/** A layer that can be adapted. */
type Adaptable = Linear | Conv2d;

/** One layer's A and B. */
class Branch implements LayerBranch {
  constructor(
    private readonly adapter: { readonly enabled: boolean; readonly weight: number },
    readonly layer: Adaptable,
    readonly a: Tensor,
    readonly b: Tensor,
    readonly alpha: number,
  ) {}

  /** What B A is multiplied by. */
  get scale(): number {
    return (this.adapter.weight * this.alpha) / this.a.size(0);
  }

  addTo(input: Tensor, output: Tensor): Tensor {
    if (!this.adapter.enabled) return output;
    const low = linear(input.dtype === "float32" ? input : input.to({ dtype: "float32" }), this.a); // [..., rank]
    // No gradient needs the layer's own output, so the product can be added in place.
    if (output.dtype === "float32" && output.ndim === 2) {
      return addmm_(output, low, this.b.transpose(0, 1), { alpha: this.scale });
    }
    const update = linear(low, this.b).mul(this.scale);
    return output.add(update.to({ dtype: output.dtype }));
  }

  addToImage(input: Tensor, output: Tensor, options: { readonly stride: number; readonly padding: number }): Tensor {
    if (!this.adapter.enabled) return output;
    const [rank, outputs] = [this.a.size(0), this.b.size(0)];
    const [height, width] = kernelOf(this.layer) ?? [1, 1];
    const down = this.a.reshape([rank, -1, height, width]);
    const low = conv2d(input.to({ dtype: "float32" }), down, undefined, options); // [B, rank, H', W']
    const update = conv2d(low, this.b.reshape([outputs, rank, 1, 1])).mul(this.scale);
    return output.add(update.to({ dtype: output.dtype }));
  }

  /** B A scaled, [out, in]. */
  product(): Tensor {
    return this.b.matmul(this.a).mul(this.scale);
  }
}

export class LoraAdapter {
  /** Whether the branches take part in the forward pass. */
  enabled = true;
  /** What the adapter counts for, beside alpha / rank. */
  weight = 1;
  /** `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, in the model's order; they record gradients. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly #model: Module;
  readonly #branches: readonly Branch[];
  readonly #targetModules: readonly string[] | undefined;

  /** Takes the layers' tensors over. */
  private constructor(model: Module, layers: readonly AdaptedLayer[], targetModules?: readonly string[]) {
    this.#model = model;
    this.#targetModules = targetModules;
    this.#branches = layers.map(({ layer, a, b, alpha }) => {
      return new Branch(this, layer, keep(a).requiresGrad_(), keep(b).requiresGrad_(), alpha);
    });
    this.parameters = new Map(
      this.#branches.flatMap(({ layer: { path }, a, b }) => [
        [`${path}.lora_A.weight`, a],
        [`${path}.lora_B.weight`, b],
      ]),
    );
    for (const branch of this.#branches) branch.layer.branches.push(branch);
  }

  /**
   * Adds an adapter that changes nothing yet: A is drawn as PEFT does (kaiming_uniform, a = sqrt(5)), B is zero.
   *
   * @throws Error when a target names no layer, or a layer that is neither linear nor a convolution
   */
  static inject(
    model: Module,
    { generator, ...options }: LoraOptions & { readonly generator: Generator },
  ): LoraAdapter {
    const { rank = 4, alpha = rank, targetModules = attentionProjections } = options;
    if (!Number.isInteger(rank) || rank < 1)
      throw new Error(`Expected a positive integer for rank but received ${rank}`);
    const modules = [...model.modules()];
    const wanted = new Set<string>();
    for (const target of targetModules) {
      const found = modules.filter(([path]) => path === target || path.endsWith(`.${target}`));
      if (found.length === 0) throw new Error(`Expected a layer of the model for targetModules but received ${target}`);
      for (const [path] of found) wanted.add(path);
    }
    const layers = modules.filter(([path]) => wanted.has(path)).map(([path]) => layerOf(model, path));
    const fresh = layers.map((layer): AdaptedLayer => {
      const [outputs, inputs] = widths(layer);
      const a = fanInUniform(inputs)([rank, inputs], { generator, ...held(layer) });
      return { layer, a, b: zeros([outputs, rank], held(layer)), alpha };
    });
    return new LoraAdapter(model, fresh, targetModules);
  }

  /**
   * Adds the UNet's adapter of a file or of a folder with `pytorch_lora_weights.safetensors`; rank, alpha and layers are
   * the file's.
   *
   * @throws SafetensorsError naming the file and each key that does not fit the model, which is then as it was
   */
  static fromPretrained(model: Module, fileOrFolder: string): LoraAdapter {
    const [adapter] = loadLora({ unet: model }, fileOrFolder);
    return adapter!;
  }

  /** For loadLora, which has checked that the layers fit. */
  static ofLayers(model: Module, layers: readonly LoraLayer[]): LoraAdapter {
    const adapted = layers.map(({ path, a, b, alpha }): AdaptedLayer => {
      const layer = layerOf(model, path);
      // The file's mapping is let go of, and a tensor that learns is not a view.
      const own = (matrix: Tensor): Tensor => tidy(() => matrix.clone().to(held(layer)));
      return { layer, a: own(a), b: own(b), alpha };
    });
    return new LoraAdapter(model, adapted);
  }

  /** What the layers of a file are called, and what is in them. */
  layers(part: LoraPart = "unet"): LoraLayer[] {
    return this.#branches.map(({ layer, a, b, alpha }) => {
      return { part, path: layer.path, a, b, alpha, kernel: kernelOf(layer) };
    });
  }

  /**
   * Writes `pytorch_lora_weights.safetensors` (or the file named): with the keys of PEFT under `unet.`, or in kohya's form
   * with the names that the model's family has there.
   */
  save(fileOrFolder: string, { form = "peft" }: Pick<WriteLoraOptions, "form"> = {}): void {
    const described = { form, ...familyOf(this.#model) };
    writeLora(fileOrFolder, this.layers(), {
      ...described,
      ...(this.#targetModules && { targetModules: this.#targetModules }),
    });
  }

  /**
   * Takes the values of a file into this adapter.
   *
   * @throws SafetensorsError naming the file and each key that is missing, unexpected or misshaped; the
   *   adapter is then as it was
   */
  load(fileOrFolder: string): void {
    tidy(() => {
      const { file, layers } = readLora(fileOrFolder);
      const stored = new Map(layers.map((layer) => [layer.path, layer]));
      const problems = layers
        .filter(({ path }) => !this.parameters.has(`${path}.lora_A.weight`))
        .map(({ path }) => `${path}: Expected no such layer`);
      for (const { layer, a, b, alpha } of this.#branches) {
        const other = stored.get(layer.path);
        if (other === undefined) {
          problems.push(`${layer.path}: Expected lora_A and lora_B but received neither`);
          continue;
        }
        if (other.alpha / other.a.size(0) !== alpha / a.size(0)) {
          const received = `${other.alpha} / ${other.a.size(0)}`;
          problems.push(`${layer.path}: Expected ${alpha} / ${a.size(0)} for alpha / rank but received ${received}`);
        }
        problems.push(...misshaped(`${layer.path}.lora_A`, other.a, a.shape));
        problems.push(...misshaped(`${layer.path}.lora_B`, other.b, b.shape));
      }
      if (problems.length > 0) throw new SafetensorsError(file, problems.join("\n  "));
      noGrad(() => {
        for (const { layer, a, b } of this.#branches) {
          a.copy_(stored.get(layer.path)!.a);
          b.copy_(stored.get(layer.path)!.b);
        }
      });
    });
  }

  /** Takes the adapter off the model. Its parameters live on until `dispose`. */
  remove(): void {
    for (const branch of this.#branches) {
      const at = branch.layer.branches.indexOf(branch);
      if (at >= 0) branch.layer.branches.splice(at, 1);
    }
  }

  /** Adds the adapter into the model's weights for good, and takes it off. */
  merge(): void {
    LoraAdapter.merge([this]);
  }

  /** The same for several: they are summed in float32, and a weight in half precision is rounded once. */
  static merge(adapters: readonly LoraAdapter[]): void {
    const byLayer = new Map<Adaptable, Branch[]>();
    for (const branch of adapters.flatMap((adapter) => adapter.#branches)) {
      byLayer.set(branch.layer, [...(byLayer.get(branch.layer) ?? []), branch]);
    }
    for (const [{ weight }, branches] of byLayer) {
      tidy(() =>
        noGrad(() => {
          const merged = weight.to({ dtype: "float32" }).clone();
          for (const branch of branches) merged.add_(branch.product().reshape(weight.shape));
          weight.copy_(merged);
        }),
      );
    }
    for (const adapter of adapters) adapter.remove();
  }

  /** Frees the parameters, and takes the adapter off. */
  dispose(): void {
    this.remove();
    for (const parameter of this.parameters.values()) parameter.dispose();
  }
}

interface AdaptedLayer {
  readonly layer: Adaptable;
  readonly a: Tensor;
  readonly b: Tensor;
  readonly alpha: number;
}

/** The models that a file's layers can be of; those that a pipeline has. */
export type LoraModels = Readonly<Partial<Record<LoraPart, Module | undefined>>>;

/**
 * Adds the adapters of a file to a pipeline's models, one adapter a model.
 *
 * @param weight what they count for
 * @throws SafetensorsError naming the file and each layer that does not fit; the models are then as they were
 */
export function loadLora(models: LoraModels, fileOrFolder: string, { weight = 1 } = {}): LoraAdapter[] {
  const adapters: LoraAdapter[] = [];
  tidy(() => {
    const { file, layers } = readLora(fileOrFolder);
    const named = layers.map((layer) => ({ ...layer, path: pathIn(models[layer.part], layer.path) }));
    const problems = named.flatMap((layer) => unfit(models[layer.part], layer));
    if (problems.length > 0) {
      const more = problems.length > 8 ? `\n  and ${problems.length - 8} more` : "";
      throw new SafetensorsError(
        file,
        `Expected a LoRA for this model but received one that differs in ${problems.length} of ` +
          `${layers.length} layers:\n  ${problems.slice(0, 8).join("\n  ")}${more}`,
      );
    }
    for (const part of new Set(named.map((layer) => layer.part))) {
      const own = named.filter((layer) => layer.part === part);
      const adapter = LoraAdapter.ofLayers(models[part]!, own);
      adapter.weight = weight;
      adapters.push(adapter);
    }
  });
  return adapters;
}

/** transformers from 5.0 leaves the `text_model` of a text encoder's paths out. */
function pathIn(model: Module | undefined, path: string): string {
  const without = path.replace(/^text_model\./, "");
  return [path, without, `text_model.${without}`].find((name) => model?.modules().has(name)) ?? path;
}

/** What keeps a layer of a file from the model. */
function unfit(model: Module | undefined, { part, path, a, b }: LoraLayer): string[] {
  if (model === undefined) return [`${part}.${path}: Expected a model with ${part}`];
  const layer = model.modules().get(path);
  if (!isAdaptable(layer)) {
    const received = layer === undefined ? "no such layer" : layer.constructor.name;
    return [`${part}.${path}: Expected a linear layer but the model has ${received}`];
  }
  const [outputs, inputs] = widths(layer);
  return [
    ...misshaped(`${part}.${path}.lora_A`, a, [a.size(0), inputs]),
    ...misshaped(`${part}.${path}.lora_B`, b, [outputs, b.size(1)]),
  ];
}

const misshaped = (name: string, { shape }: Tensor, expected: readonly number[]): string[] =>
  shape.join() === expected.join()
    ? []
    : [`${name}: Expected [${expected.join(", ")}] but received [${shape.join(", ")}]`];

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

function layerOf(model: Module, path: string): Adaptable {
  const layer = model.modules().get(path);
  if (isAdaptable(layer)) return layer;
  const received = layer === undefined ? "no such layer" : layer.constructor.name;
  throw new Error(`Expected a linear layer for LoRA at ${path} but received ${received}`);
}

/** What kohya's names depend on, where the model is a UNet. */
function familyOf(model: Module): Pick<WriteLoraOptions, "isXL" | "layersPerBlock"> {
  const { config = {} } = model as { config?: Readonly<Record<string, unknown>> };
  const layers = [config["layers_per_block"]].flat()[0];
  return {
    isXL: config["addition_embed_type"] === "text_time",
    ...(typeof layers === "number" && { layersPerBlock: layers }),
  };
}
