/**
 * Low-rank adapters on the linear layers of a model: y = W x + (alpha / rank) B A x with A [rank, in] and B [out, rank]
 * trained and W frozen. Source: "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv 2106.09685), with the keys
 * and the initialisation of PEFT.
 *
 * A and B are float32 whatever the model is held in, and so is their product.
 */
import { fanInUniform, Linear, type LinearBranch, type Module } from "../nn/index.js";
import { keep, linear, noGrad, op, tidy, zeros, type Device, type Generator, type Tensor } from "../torch/index.js";
import { readLora, writeLora } from "./lora-file.js";

const addmm_ = op("aten::addmm_", ["Tensor", "Tensor", "Tensor", "Scalar", "Scalar"], "self");

/** The projections of every attention of a UNet. */
export const attentionProjections: readonly string[] = ["to_q", "to_k", "to_v", "to_out.0"];

export interface LoraOptions {
  readonly rank?: number;
  /** The adapter's output is scaled by alpha / rank. Default: rank. */
  readonly alpha?: number;
  /** Layers whose path is one of these or ends in one, as in PEFT. */
  readonly targetModules?: readonly string[];
}

/** One layer's A and B. */
class Branch implements LinearBranch {
  constructor(
    private readonly adapter: LoraAdapter,
    readonly layer: Linear,
    readonly a: Tensor,
    readonly b: Tensor,
  ) {}

  addTo(input: Tensor, output: Tensor): Tensor {
    if (!this.adapter.enabled) return output;
    const { scale } = this.adapter;
    const low = linear(input.dtype === "float32" ? input : input.to({ dtype: "float32" }), this.a); // [..., rank]
    // No gradient needs the layer's own output, so the product can be added in place.
    if (output.dtype === "float32" && output.ndim === 2) return addmm_(output, low, this.b.transpose(0, 1), 1, scale);
    const update = linear(low, this.b).mul(scale);
    return output.add(update.to({ dtype: output.dtype }));
  }

  /** B A scaled, [out, in]. */
  product(): Tensor {
    return this.b.matmul(this.a).mul(this.adapter.scale);
  }
}

export class LoraAdapter {
  /** Whether the branches take part in the forward pass. */
  enabled = true;
  readonly scale: number;
  /** `<layer>.lora_A.weight` and `<layer>.lora_B.weight`, in the model's order; they record gradients. */
  readonly parameters: ReadonlyMap<string, Tensor>;
  readonly #branches: readonly Branch[];

  private constructor(
    layers: readonly Linear[],
    readonly rank: number,
    readonly alpha: number,
    readonly targetModules: readonly string[],
    initA: (layer: Linear) => Tensor,
  ) {
    this.scale = alpha / rank;
    this.#branches = layers.map((layer) => {
      const a = keep(tidy(() => initA(layer))).requiresGrad_();
      const b = keep(zeros([layer.outFeatures, rank], { device: layer.weight.device })).requiresGrad_();
      return new Branch(this, layer, a, b);
    });
    this.parameters = new Map(
      this.#branches.flatMap(({ layer: { path }, a, b }) => [
        [`${path}.lora_A.weight`, a],
        [`${path}.lora_B.weight`, b],
      ]),
    );
    for (const branch of this.#branches) branch.layer.lora = branch;
  }

  /**
   * Adds an adapter that changes nothing yet: A is drawn as PEFT does (kaiming_uniform, a = sqrt(5)), B is zero.
   *
   * @throws Error when a target names no layer, a layer that is not linear, or one that has an adapter
   */
  static inject(
    model: Module,
    { generator, ...options }: LoraOptions & { readonly generator: Generator },
  ): LoraAdapter {
    const { rank = 4, alpha = rank, targetModules = attentionProjections } = options;
    if (!Number.isInteger(rank) || rank < 1)
      throw new Error(`Expected a positive integer for rank but received ${rank}`);
    const layers = targetModules.flatMap((target) => {
      const found = [...model.modules().values()].filter(({ path }) => path === target || path.endsWith(`.${target}`));
      if (found.length === 0) throw new Error(`Expected a layer of the model for targetModules but received ${target}`);
      return found.map(({ path }) => path);
    });
    const wanted = new Set(layers);
    const inOrder = [...model.modules().keys()].filter((path) => wanted.has(path));
    return new LoraAdapter(linearLayers(model, inOrder), rank, alpha, targetModules, (layer) =>
      fanInUniform(layer.inFeatures)([rank, layer.inFeatures], { generator, ...held(layer) }),
    );
  }

  /**
   * Adds the adapter of a file or of a folder with `pytorch_lora_weights.safetensors`; rank, alpha and layers are the
   * file's.
   *
   * @throws SafetensorsError or Error naming the file and each key that does not fit the model
   */
  static fromPretrained(model: Module, fileOrFolder: string): LoraAdapter {
    const { rank, alpha, layers } = readLora(fileOrFolder);
    const paths = [...layers.keys()];
    const targets = [...new Set(paths.map((path) => attentionProjections.find((t) => path.endsWith(`.${t}`)) ?? path))];
    const adapter = new LoraAdapter(linearLayers(model, paths), rank, alpha, targets, (layer) =>
      zeros([rank, layer.inFeatures], held(layer)),
    );
    try {
      adapter.load(fileOrFolder);
    } catch (error) {
      adapter.remove();
      throw error;
    }
    return adapter;
  }

  /** Writes `pytorch_lora_weights.safetensors` (or the file named) with the keys of PEFT under `unet.`. */
  save(fileOrFolder: string): void {
    const { rank, alpha, targetModules } = this;
    writeLora(fileOrFolder, this.parameters, { rank, alpha, targetModules });
  }

  /**
   * Takes the values of a file into this adapter.
   *
   * @throws SafetensorsError or Error naming the file and each key that is missing, unexpected or misshaped; the
   *   adapter is then as it was
   */
  load(fileOrFolder: string): void {
    tidy(() => {
      const { file, alpha, rank, layers } = readLora(fileOrFolder);
      const problems: string[] = [];
      if (alpha / rank !== this.scale) {
        problems.push(`Expected ${this.scale} for alpha / rank but received ${alpha} / ${rank}`);
      }
      const paths = new Set(this.#branches.map(({ layer }) => layer.path));
      for (const path of layers.keys()) if (!paths.has(path)) problems.push(`${path}: Expected no such layer`);
      for (const { layer, a, b } of this.#branches) {
        const stored = layers.get(layer.path);
        if (stored === undefined) problems.push(`${layer.path}: Expected lora_A and lora_B but received neither`);
        else {
          for (const [name, own, other] of [["lora_A", a, stored.a] as const, ["lora_B", b, stored.b] as const]) {
            if (own.shape.join() !== other.shape.join()) {
              problems.push(
                `${layer.path}.${name}: Expected [${own.shape.join(", ")}] but received [${other.shape.join(", ")}]`,
              );
            }
          }
        }
      }
      if (problems.length > 0) throw new Error(`${file}: ${problems.join("\n  ")}`);
      noGrad(() => {
        for (const { layer, a, b } of this.#branches) {
          a.copy_(layers.get(layer.path)!.a);
          b.copy_(layers.get(layer.path)!.b);
        }
      });
    });
  }

  /** Takes the adapter off the model. Its parameters live on until `dispose`. */
  remove(): void {
    for (const branch of this.#branches) if (branch.layer.lora === branch) branch.layer.lora = undefined;
  }

  /** Adds the adapter into the model's weights for good, and takes it off. */
  merge(): void {
    tidy(() =>
      noGrad(() => {
        for (const branch of this.#branches) {
          const { weight } = branch.layer;
          weight.copy_(weight.to({ dtype: "float32" }).add(branch.product()));
        }
      }),
    );
    this.remove();
  }

  /** Frees the parameters, and takes the adapter off. */
  dispose(): void {
    this.remove();
    for (const parameter of this.parameters.values()) parameter.dispose();
  }
}

function held({ weight: { device } }: Linear): { dtype: "float32"; device: Device } {
  return { dtype: "float32", device };
}

function linearLayers(model: Module, paths: readonly string[]): Linear[] {
  const modules = model.modules();
  return paths.map((path) => {
    const layer = modules.get(path);
    if (!(layer instanceof Linear)) {
      const received = layer === undefined ? "no such layer" : layer.constructor.name;
      throw new Error(`Expected a linear layer for LoRA at ${path} but received ${received}`);
    }
    if (layer.lora !== undefined) throw new Error(`Expected no LoRA yet at ${path} but received a second one`);
    return layer;
  });
}
