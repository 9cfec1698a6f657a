/**
 * Loads the parts of Stable Diffusion 3 from a diffusers folder or a single file, and writes them. Each text encoder may be
 * missing. If loading fails, nothing stays in memory.
 */
import { existsSync } from "node:fs";
import { isAbsolute, join } from "node:path";
import { z } from "zod";
import { readJsonObject, writeJson, type JsonObject } from "../base/files.js";
import { isPickle, pickleRefused } from "../base/pickle.js";
import type { Named } from "../base/registry.js";
import { listOf, show } from "../base/show.js";
import {
  AutoencoderKL,
  CLIPTextModelWithProjection,
  ModelConfigError,
  SD3Transformer2DModel,
  T5EncoderModel,
  type PretrainedModel,
} from "../models/index.js";
import type { WeightsOptions } from "../nn/index.js";
import { openScheduler, type Scheduler } from "../schedulers/index.js";
import { isSD3SingleFile, saveSD3SingleFile, SD3SingleFile, type SD3PartName } from "../single-file/index.js";
import { CLIPTokenizer, JsonTokenizer } from "../tokenizer/index.js";
import type { Companion, ModelOptions } from "./diffusion-model.js";
import { holding, loadScheduler, optionsOfParts } from "./load.js";
import { Loadable } from "./loadable.js";
import { saveScheduler, writeFolder } from "./save.js";
import { checkSD3Fit } from "./sd3-fit.js";
import { textEncoders, textParts, type ClipPart, type SD3Parts } from "./sd3-parts.js";

export const SD3_PIPELINE = "StableDiffusion3Pipeline";

/** What a config gets that names no scheduler: CPS with an eta of 0.7. */
export const FLOW_MATCH: Named = { name: "flow-match" };

const CLIP = { tokenizer: ["CLIPTokenizer", "CLIPTokenizerFast"], encoder: "CLIPTextModelWithProjection" };
const T5 = { tokenizer: ["T5TokenizerFast", "T5Tokenizer"], encoder: "T5EncoderModel" };

/** The text encoders' classes, by what follows `tokenizer` and `text_encoder` in the folders' names. */
const TEXTS = { "": CLIP, _2: CLIP, _3: T5 } as const;
type Suffix = keyof typeof TEXTS;
const SUFFIXES = Object.keys(TEXTS) as Suffix[];

const WEIGHTS = ["transformer", "vae", ...SUFFIXES.map((suffix) => `text_encoder${suffix}`)];

/** Whether a folder's index names the pipeline, or a file has its keys. */
export function isStableDiffusion3(path: string): boolean {
  try {
    if (isFile(path)) return isSD3SingleFile(path);
    const file = join(path, "model_index.json");
    return existsSync(file) && readJsonObject(file)["_class_name"] === SD3_PIPELINE;
  } catch {
    return false;
  }
}

const isFile = (path: string): boolean => path.endsWith(".safetensors");

/** Where the parts come from. Whoever loads one owns it. */
interface Source {
  /** The text encoders that there are, by what follows `text_encoder` in their folders' names. */
  readonly texts: ReadonlySet<Suffix>;
  /** A folder with the folders of their tokenizers. */
  readonly tokenizers: string;
  /** A folder with the folders of the parts, whose configs can be read by themselves. */
  readonly configs?: string;
  readonly scheduler: Scheduler;
  readonly clip: (part: "text_encoder" | "text_encoder_2") => CLIPTextModelWithProjection;
  readonly t5: () => T5EncoderModel;
  readonly transformer: () => SD3Transformer2DModel;
  readonly vae: () => AutoencoderKL;
}

/**
 * Loads all parts and checks that they fit. With `offload` text encoders and transformer are left to be loaded when they
 * are called.
 *
 * @throws InputError naming the file and every key at fault
 */
export function loadSD3Parts(path: string, options: ModelOptions): SD3Parts {
  if (isPickle(path)) throw new ModelConfigError(pickleRefused(path));
  const source = isFile(path) ? ofFile(path, options) : ofFolder(path, options);
  const { offload = false, gradientCheckpointing = false } = options;
  return holding((hold) => {
    const tokenizer = (suffix: Suffix): string => join(source.tokenizers, `tokenizer${suffix}`);
    const part = <M extends PretrainedModel<object>>(
      name: string,
      load: () => M,
      modelClass: { readConfig(folder: string): M["config"] },
    ): Loadable<M> => {
      const { configs } = source;
      const readConfig = configs === undefined ? undefined : () => modelClass.readConfig(join(configs, name));
      return hold(new Loadable(load, readConfig));
    };
    const clip = (suffix: "" | "_2"): ClipPart | undefined => {
      const name = `text_encoder${suffix}` as const;
      if (!source.texts.has(suffix)) return undefined;
      return {
        tokenizer: CLIPTokenizer.fromPretrained(tokenizer(suffix)),
        encoder: part(name, () => source.clip(name), CLIPTextModelWithProjection),
      };
    };
    const parts: SD3Parts = {
      scheduler: source.scheduler,
      clips: [clip(""), clip("_2")],
      t5: source.texts.has("_3")
        ? {
            tokenizer: JsonTokenizer.fromPretrained(tokenizer("_3")),
            encoder: part("text_encoder_3", source.t5, T5EncoderModel),
          }
        : undefined,
      transformer: part(
        "transformer",
        () => Object.assign(source.transformer(), { gradientCheckpointing }),
        SD3Transformer2DModel,
      ),
      vae: hold(source.vae()),
    };
    checkSD3Fit(parts, path);
    if (!offload) for (const each of [...textEncoders(parts), parts.transformer]) each.keep();
    return parts;
  });
}

/**
 * T5 computes in float32 unless the model computes in bfloat16, so that what its files have in half precision gives the
 * same bits in half of the memory: 4.7 billion weights beside a float32 transformer take 9.5 GB and not 19. In a model that
 * is held in bfloat16, T5 is too.
 */
const heldT5 = ({ dtype }: ModelOptions): WeightsOptions => ({ keepHalf: dtype !== "bfloat16" });

function ofFolder(folder: string, options: ModelOptions): Source {
  const { texts, vae } = readSD3Index(folder);
  const of = optionsOfParts(folder, options, WEIGHTS);
  const at = (part: string) => join(folder, part);
  return {
    texts,
    tokenizers: folder,
    configs: folder,
    scheduler: loadScheduler(folder, options.scheduler ?? FLOW_MATCH),
    clip: (part) => CLIPTextModelWithProjection.fromPretrained(at(part), of(part)),
    t5: () => T5EncoderModel.fromPretrained(at("text_encoder_3"), { ...of("text_encoder_3"), ...heldT5(options) }),
    transformer: () => SD3Transformer2DModel.fromPretrained(at("transformer"), of("transformer")),
    vae: () => AutoencoderKL.fromPretrained(vae, of("vae")),
  };
}

/**
 * A file without a VAE, or without any text encoder, takes those of the folder of configs. A file with some text encoders
 * works with them alone.
 */
function ofFile(file: string, { dtype = "float32", device = "cpu", config, scheduler }: ModelOptions): Source {
  if (config === undefined) {
    throw new ModelConfigError(
      `Expected the model's diffusers folder, or one with its tokenizers, for config, since a single file has none, but received none for ${file}`,
    );
  }
  const index = existsSync(join(config, "model_index.json")) ? readSD3Index(config) : undefined;
  const checkpoint = new SD3SingleFile(file, config, index && { vae: index.vae });
  const held = { dtype, device };
  const own: Source = {
    texts: new Set(SUFFIXES.filter((suffix) => checkpoint.has(`text_encoder${suffix}`))),
    tokenizers: config,
    scheduler: openScheduler(scheduler ?? FLOW_MATCH, checkpoint.schedulerConfig(), file),
    clip: (part) => checkpoint.clip(part, held),
    t5: () => checkpoint.t5({ ...held, ...heldT5(held) }),
    transformer: () => checkpoint.transformer(held),
    vae: () => checkpoint.vae(held),
  };
  const lacking = lackingIn(checkpoint);
  if (lacking.length === 0) return own;
  if (index === undefined) {
    const what = listOf(lacking, "and");
    throw new ModelConfigError(
      `${file}: Expected ${what} in the file, or in a diffusers folder for config, but received neither: ${config} has no model_index.json`,
    );
  }
  const { texts, clip, t5, vae } = ofFolder(config, held);
  return { ...own, ...(own.texts.size === 0 && { texts, clip, t5 }), ...(lacking.includes("vae") && { vae }) };
}

/** The parts that a file does not have and cannot do without: the VAE, and all text encoders where it has none. */
function lackingIn(checkpoint: SD3SingleFile): SD3PartName[] {
  const texts = SUFFIXES.map((suffix) => `text_encoder${suffix}` as const);
  return [
    ...(texts.some((part) => checkpoint.has(part)) ? [] : texts),
    ...(checkpoint.has("vae") ? [] : (["vae"] as const)),
  ];
}

/**
 * What a single file needs besides itself, from the folder of configs that it is given with.
 *
 * @throws SafetensorsError for a file that is no such checkpoint
 */
export const companionOfFile = (path: string, config: string | undefined): Companion | undefined =>
  isFile(path) && config !== undefined
    ? { path: config, purpose: "settings", weights: lackingIn(new SD3SingleFile(path)) }
    : undefined;

/** Writes a folder in diffusers' layout, atomically. @throws ModelConfigError unless it is empty or new */
export function saveSD3Parts(parts: SD3Parts, folder: string): void {
  writeFolder(folder, (temporary) => {
    parts.transformer.model.savePretrained(join(temporary, "transformer"));
    parts.vae.savePretrained(join(temporary, "vae"));
    const texts = textParts(parts).map(([suffix, part]): JsonObject => {
      part?.tokenizer.savePretrained(join(temporary, `tokenizer${suffix}`));
      part?.encoder.model.savePretrained(join(temporary, `text_encoder${suffix}`));
      part?.encoder.free(); // before the next one comes, where it was not in memory
      const { tokenizer, encoder } = TEXTS[suffix];
      return {
        [`tokenizer${suffix}`]: part === undefined ? [null, null] : ["transformers", tokenizer[0]!],
        [`text_encoder${suffix}`]: part === undefined ? [null, null] : ["transformers", encoder],
      };
    });
    writeJson(join(temporary, "model_index.json"), {
      _class_name: SD3_PIPELINE,
      ...Object.assign({}, ...texts),
      transformer: ["diffusers", "SD3Transformer2DModel"],
      vae: ["diffusers", "AutoencoderKL"],
      scheduler: ["diffusers", saveScheduler(parts.scheduler, temporary)],
    });
  });
}

/** Writes one file in the original layout, atomically. */
export function saveSD3File({ transformer, vae, clips, t5 }: SD3Parts, file: string): void {
  const [textEncoder, textEncoder2] = clips.map((clip) => clip?.encoder.model);
  const textEncoder3 = t5?.encoder.model;
  saveSD3SingleFile({ transformer: transformer.model, vae, textEncoder, textEncoder2, textEncoder3 }, file);
}

/** What a folder's index says. */
export interface SD3Index {
  /** The text encoders that it has, by what follows `text_encoder` in their folders' names. */
  readonly texts: ReadonlySet<Suffix>;
  /** The folder of the VAE. */
  readonly vae: string;
}

/** Where a part of a folder lies; null for a text encoder that it does without. */
export function sd3PartFolder(folder: string, part: string): string | null {
  const { texts, vae } = readSD3Index(folder);
  const isAbsentText = SUFFIXES.some((suffix) => part === `text_encoder${suffix}` && !texts.has(suffix));
  if (isAbsentText) return null;
  return part === "vae" ? vae : join(folder, part);
}

/** Where a part lies that a folder shares with another model: `pretrained_model_name_or_path` is relative to the folder. */
const sharedPart = z.strictObject({
  pretrained_model_name_or_path: z.string().refine((path) => path !== "" && !isAbsolute(path)),
  subfolder: z.string().default(""),
});

const SHARED_EXAMPLE = { pretrained_model_name_or_path: "../other-model", subfolder: "vae" };

/**
 * Reads a folder's index. The VAE may be another model's, so that models with the same one need not each store it: after
 * library and class comes where it lies, as in the modular_model_index.json of diffusers.
 *
 * @throws ModelConfigError naming the file and what is wrong with it
 */
export function readSD3Index(folder: string): SD3Index {
  const file = join(folder, "model_index.json");
  const index = readJsonObject(file, ModelConfigError);
  const expect = (what: string, key: string, holds: boolean): void => {
    if (holds) return;
    throw new ModelConfigError(`${file}: Expected ${what} for ${key} but received ${show(index[key])}`);
  };
  const classOf = (key: string): unknown => (Array.isArray(index[key]) ? index[key][1] : index[key]); // [library, class]
  expect(SD3_PIPELINE, "_class_name", index["_class_name"] === SD3_PIPELINE);
  expect("an SD3Transformer2DModel", "transformer", classOf("transformer") === "SD3Transformer2DModel");
  expect("an AutoencoderKL", "vae", classOf("vae") === "AutoencoderKL");
  const place: unknown = Array.isArray(index["vae"]) ? index["vae"][2] : undefined;
  const { success, data: vae } = sharedPart.optional().safeParse(place);
  expect(`a relative path, as in ${show(["diffusers", "AutoencoderKL", SHARED_EXAMPLE])},`, "vae", success);
  const present = SUFFIXES.filter((suffix) => !isAbsent(index[`text_encoder${suffix}`]));
  for (const suffix of present) {
    const { tokenizer, encoder } = TEXTS[suffix];
    const [tokenizerKey, encoderKey] = [`tokenizer${suffix}`, `text_encoder${suffix}`];
    expect(`a ${encoder} or null`, encoderKey, classOf(encoderKey) === encoder);
    expect(`a ${tokenizer[0]}`, tokenizerKey, tokenizer.includes(classOf(tokenizerKey) as string));
  }
  // Without any, all prompts would be the same zeros.
  expect("at least one of three text encoders", "text_encoder", present.length > 0);
  return {
    texts: new Set(present),
    vae: vae === undefined ? join(folder, "vae") : join(folder, vae.pretrained_model_name_or_path, vae.subfolder),
  };
}

/** diffusers writes [null, null] for a part that a pipeline does without. */
const isAbsent = (part: unknown): boolean =>
  part === undefined || part === null || (Array.isArray(part) && part.every((name) => name === null));
