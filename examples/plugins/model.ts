/**
 * A model family: `toy`, whose latents are tiny images and whose denoiser is two linear layers, so that the whole of the
 * interface `DiffusionModel` fits on a page. Start from it for models that are not Stable Diffusion.
 *
 *     node dist/examples/plugins/model.js models/toy     # writes a model with fresh weights
 *     b2 run runs/toy --preset demo --plugin dist/examples/plugins/model.js --set model.path=models/toy \
 *       --set rewards=brightness --set eval.clip=null --set eval.truth=none
 *
 * A folder of the family has `toy.json` and the denoiser's weights:
 *
 *     toy.json
 *     transformer/diffusion_pytorch_model.safetensors
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  catPrompts,
  expandPrompts,
  expectNewFolder,
  InputError,
  noGrad,
  openScheduler,
  promptEmbeds,
  registerModel,
  saveSafetensors,
  tidy,
  z,
  type Conditioning,
  type Device,
  type DiffusionModel,
  type DType,
  type GuidanceOptions,
  type ImageSize,
  type ModelOptions,
  type PromptEmbeds,
  type Scheduler,
  type Tensor,
} from "b2-diffurl";
import { Linear, Module, Weights } from "b2-diffurl/nn";
import { cat, computeDtype, Generator, randn, silu, tensor } from "b2-diffurl/torch";

const CONFIG = "toy.json";
const DENOISER = "transformer"; // the name of its folder, and its prefix in LoRA files
const WEIGHTS = "diffusion_pytorch_model.safetensors";

const configSchema = z.object({
  /** Pixels of a side. */
  size: z.int().min(1),
  /** Numbers that a prompt becomes. */
  features: z.int().min(1),
  hidden: z.int().min(1),
  /** As diffusers keeps it in scheduler_config.json. */
  scheduler: z.record(z.string(), z.unknown()),
});

type ToyConfig = z.output<typeof configSchema>;

/** The text of a prompt, a row each. */
type ToyEmbeds = PromptEmbeds<{ readonly text: Tensor }>;

/** [B, features]; twice as many rows where the batch is guided: those of the negative prompts first. */
interface ToyConditioning extends Conditioning {
  readonly guidanceScale: number;
  readonly text: Tensor;
}

/** Layers ask for their parameters by the names that checkpoints have; a LoRA finds them by the same names. */
class ToyDenoiser extends Module {
  readonly #linear1: Linear;
  readonly #linear2: Linear;

  constructor(weights: Weights, { size, features, hidden }: ToyConfig) {
    super(weights);
    const pixels = 3 * size * size;
    this.#linear1 = new Linear(weights.at("linear_1"), pixels + 1 + features, hidden);
    this.#linear2 = new Linear(weights.at("linear_2"), hidden, pixels);
  }

  /** [B, 3, H, W], times [B, 1] in 0..1, text [B, features] -> [B, 3, H, W] */
  forward(x: Tensor, time: Tensor, text: Tensor): Tensor {
    const hidden = silu(this.#linear1.forward(cat([x.flatten(1), time, text], 1)));
    return this.#linear2.forward(hidden).view(x.shape);
  }
}

export class ToyModel implements DiffusionModel {
  readonly family = "toy";
  readonly denoiserName = DENOISER;
  readonly loraTargets = ["linear_1", "linear_2"];
  readonly downscale = 1;
  readonly denoiser: ToyDenoiser;
  readonly scheduler: Scheduler;
  readonly computeDtype: DType;
  readonly device: Device;
  readonly #config: ToyConfig;

  private constructor(config: ToyConfig, weights: Weights, file: string, options: ModelOptions) {
    const { dtype = "float32", device = "cpu", scheduler = { name: "ddim" } } = options;
    this.#config = config;
    this.device = device;
    this.computeDtype = options.computeDtype ?? computeDtype(dtype, device);
    this.scheduler = openScheduler(scheduler, config.scheduler, file);
    this.denoiser = new ToyDenoiser(weights, config);
    weights.finish(); // throws for keys that are missing, misshaped or left over
  }

  /** @throws InputError naming the file, and each key of it that is at fault; nothing stays in memory then */
  static fromPretrained(folder: string, options: ModelOptions = {}): ToyModel {
    const { dtype = "float32", device = "cpu" } = options;
    const file = join(folder, CONFIG);
    const config = readConfig(file);
    const weights = Weights.fromSafetensors(join(folder, DENOISER, WEIGHTS), { dtype, device });
    return ToyModel.#create(config, weights, file, options);
  }

  /** A model with fresh weights. */
  static fromConfig(config: ToyConfig, { seed = 0, ...options }: ModelOptions & { seed?: number } = {}): ToyModel {
    return ToyModel.#create(config, Weights.random(new Generator(seed)), CONFIG, options);
  }

  static #create(config: ToyConfig, weights: Weights, file: string, options: ModelOptions): ToyModel {
    try {
      return new ToyModel(config, weights, file, options);
    } catch (error) {
      weights.dispose();
      throw error;
    }
  }

  get adaptable(): Readonly<Record<string, Module>> {
    return { [DENOISER]: this.denoiser };
  }

  get modules(): Readonly<Record<string, Module>> {
    return this.adaptable;
  }

  latentShape({ height, width }: ImageSize = {}): readonly number[] {
    const { size } = this.#config;
    for (const side of [height, width]) {
      if (side !== undefined && side !== size) {
        throw new InputError(`Expected ${size}, the size of this model, for a side of an image but received ${side}`);
      }
    }
    return [3, size, size];
  }

  /** The sum of a random vector for each word: texts with words in common are alike. */
  encodePrompts(prompts: readonly string[]): ToyEmbeds {
    const words = (prompt: string): string[] => prompt.toLowerCase().match(/\w+/g) ?? [];
    return tidy(() => {
      const rows = prompts.map((prompt) => this.#embed(words(prompt)));
      return promptEmbeds({ text: cat(rows).to({ device: this.device }) });
    });
  }

  isGuided(guidanceScale: number): boolean {
    return guidanceScale > 1;
  }

  /** The conditioning holds tensors of its own: the embeds are the caller's, who may free them at once. */
  condition(embeds: ToyEmbeds, { guidanceScale = 1, negative }: GuidanceOptions = {}): ToyConditioning {
    const isGuided = this.isGuided(guidanceScale);
    if (isGuided && negative === undefined) {
      throw new TypeError(`Expected negative prompts for guidanceScale ${guidanceScale} but received none`);
    }
    const { text } = tidy(() => {
      if (!isGuided) return expandPrompts(embeds, embeds.rows).states;
      return catPrompts([expandPrompts(negative as ToyEmbeds, embeds.rows), embeds]).states;
    });
    return { guidanceScale: isGuided ? guidanceScale : 1, text, dispose: () => text.dispose() };
  }

  /** Nothing here is the same at every step of a sampler but the text itself. */
  prepare(embeds: ToyEmbeds, guidance?: GuidanceOptions): ToyConditioning {
    return noGrad(() => this.condition(embeds, guidance));
  }

  predict(latents: Tensor, timesteps: number | readonly number[], { text, guidanceScale }: ToyConditioning): Tensor {
    const batch = latents.size(0);
    const times = typeof timesteps === "number" ? Array<number>(batch).fill(timesteps) : timesteps;
    return tidy(() => {
      const held = { dtype: this.computeDtype, device: this.device };
      const time = tensor(times, { shape: [batch, 1] }).div(this.scheduler.numTrainTimesteps);
      const twice = (x: Tensor): Tensor => (guidanceScale === 1 ? x : cat([x, x])).to(held);
      const output = this.denoiser.forward(twice(latents), twice(time), text.to(held)).to({ dtype: "float32" });
      const [first, own] = guidanceScale === 1 ? [output] : output.chunk(2); // [without the text,] with it
      const guided = own === undefined ? first! : first!.add(own.sub(first!).mul(guidanceScale));
      return guided.to({ device: latents.device });
    });
  }

  /** Latents are images in -1..1. */
  decode(latents: Tensor): Tensor {
    return tidy(() => latents.to({ device: this.device }).div(2).add(0.5).clamp({ min: 0, max: 1 }));
  }

  /** A run that trains all weights takes them up from this file. */
  saveDenoiser(folder: string): void {
    mkdirSync(folder, { recursive: true });
    saveSafetensors(join(folder, WEIGHTS), this.denoiser.parameters()); // atomic
  }

  savePretrained(folder: string): void {
    expectNewFolder(folder);
    this.saveDenoiser(join(folder, DENOISER));
    const config = { ...this.#config, scheduler: this.scheduler.toConfig() };
    writeFileSync(join(folder, CONFIG), `${JSON.stringify(config, null, 2)}\n`);
  }

  dispose(): void {
    this.denoiser.dispose();
  }

  /** [1, features] */
  #embed(words: readonly string[]): Tensor {
    return tidy(() => {
      const vectors = ["", ...words].map((word) => {
        const seed = createHash("sha256").update(word).digest().readUInt32LE();
        return randn([1, this.#config.features], { generator: new Generator(seed) });
      });
      return cat(vectors).sum({ dim: 0, keepdim: true });
    });
  }
}

function readConfig(file: string): ToyConfig {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new InputError(`${file}: Expected JSON but received: ${(cause as Error).message}`, { cause });
  }
  const parsed = configSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.map(({ path, message }) => `${path.join(".")}: ${message}`);
  throw new InputError(`${file}: ${problems.join("\n  ")}`);
}

registerModel({
  name: "toy",
  summary: "Tiny images by two linear layers",
  options: z.object({}),
  layout: `a folder with ${CONFIG}`,
  recognises: (path) => existsSync(join(path, CONFIG)),
  passes: (guidanceScale) => (guidanceScale > 1 ? 2 : 1),
  open: (path, options) => ToyModel.fromPretrained(path, options),
});

/** A model to try: it predicts x_0, about grey as long as nothing has been learnt. */
export function createToyModel(folder: string): void {
  const scheduler = { prediction_type: "sample", steps_offset: 1, clip_sample: false };
  const model = ToyModel.fromConfig({ size: 8, features: 16, hidden: 64, scheduler });
  model.savePretrained(folder);
  model.dispose();
}

if (process.argv[1] === import.meta.filename) createToyModel(process.argv[2] ?? "models/toy");
