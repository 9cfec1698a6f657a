/**
 * kohya's format, family by family: what the layers are called, and which of them share one pair of matrices. Dots of a
 * path are underscores. A family that kohya's trainers train under its original's names has that original's modules here.
 *
 * Sources: what kohya's networks/lora.py and networks/lora_sd3.py, ComfyUI and AUTOMATIC1111 read.
 */
import { InputError } from "../base/errors.js";
import type { StoredParameter } from "../nn/index.js";
import { sd3Module, sd3Paths, unetModule } from "../single-file/index.js";
import { joinThirds, splitThirds, swapHalves } from "./joint.js";
import type { LoraLayer } from "./layer.js";
import { UNET_LAYERS_PER_BLOCK, type LoraPart } from "./names.js";

/** The families that the format has names for. */
export type KohyaFamily = "sd1" | "sd2" | "sdxl" | "sd3";

interface Kohya {
  /** `ss_base_model_version` and `ss_network_module` of its files. */
  readonly version: string;
  readonly network: string;
  /** What the names of each part's layers begin with. */
  readonly prefixes: Readonly<Record<LoraPart, string>>;
  /** Whether layers show that they are of this family. */
  readonly recognises: (layers: readonly LoraLayer[]) => boolean;
  /** The original's module of a denoiser's layer; undefined if there is none. Default: it has the layer's own path. */
  readonly module?: (layer: LoraLayer, layersPerBlock?: number) => StoredParameter | undefined;
}

const SDXL_UP_ATTENDS = [true, true, false];

const ONE_TEXT_ENCODER = { unet: "lora_unet", text_encoder: "lora_te" };
const SEVERAL = { text_encoder: "lora_te1", text_encoder_2: "lora_te2", text_encoder_3: "lora_te3" };

/** The first that recognises the layers is theirs. */
const FAMILIES: Readonly<Record<KohyaFamily, Kohya>> = {
  sd3: {
    version: "sd3",
    network: "networks.lora_sd3",
    prefixes: { transformer: "lora_unet", ...SEVERAL },
    recognises: (layers) => layers.some(({ part }) => part === "transformer" || part === "text_encoder_3"),
    module: (layer) => sd3Module(layer.path, isShiftAndScale(layer)),
  },
  sdxl: {
    version: "sdxl_base_v1-0",
    network: "networks.lora",
    prefixes: { unet: "lora_unet", ...SEVERAL },
    // Only SDXL has a second text encoder beside a UNet, or more than one block in a transformer.
    recognises: (layers) =>
      layers.some(({ part, path }) => part === "text_encoder_2" || /\.transformer_blocks\.[1-9]/.test(path)),
    // AUTOMATIC1111 accepts diffusers' names only for SD 1 and 2; ComfyUI accepts either.
    module: ({ path }, layersPerBlock = UNET_LAYERS_PER_BLOCK) => {
      const key = unetModule(path, { layersPerBlock, upAttends: SDXL_UP_ATTENDS });
      return key === undefined ? undefined : { key };
    },
  },
  sd2: {
    version: "sd_v2",
    network: "networks.lora",
    prefixes: ONE_TEXT_ENCODER,
    // Only SD 2 has text features of width 1024.
    recognises: (layers) =>
      layers.some(({ path, a }) => /\.attn2\.to_[kv]$|\.[qkv]_proj$/.test(path) && a.size(1) === 1024),
  },
  sd1: { version: "sd_v1", network: "networks.lora", prefixes: ONE_TEXT_ENCODER, recognises: () => true },
};

/** Whether a layer of an adaptive norm gives a shift and a scale, of its input's width each, and nothing else. */
const isShiftAndScale = ({ a, b }: Pick<LoraLayer, "a" | "b">): boolean => b.size(0) === 2 * a.size(1);

/** How layers are written in kohya's format. */
export interface KohyaOptions {
  /** Default: recognised by the layers. */
  readonly family?: KohyaFamily;
  /** Layers per block of the UNet. Default 2, as in all published models. */
  readonly layersPerBlock?: number;
}

/** Layers as a file in kohya's format has them. */
export interface KohyaLayers {
  /** By what precedes `.lora_down.weight`, `.lora_up.weight` and `.alpha`. */
  readonly layers: ReadonlyMap<string, LoraLayer>;
  readonly metadata: Readonly<Record<string, string>>;
}

/**
 * Layers under the names of kohya's format. Queries, keys and values that the original has as one matrix become one layer.
 *
 * @param source named in errors
 * @throws InputError for a layer without a name
 */
export function toKohya(
  layers: readonly LoraLayer[],
  source: string,
  { family, layersPerBlock }: KohyaOptions,
): KohyaLayers {
  const own = family ?? familyOf(layers);
  const { version, network } = FAMILIES[own];
  const named = new Map<string, LoraLayer>();
  const thirds = new Map<string, (LoraLayer | undefined)[]>();
  for (const layer of layers) {
    const place = placeOf(layer, FAMILIES[own], layersPerBlock);
    if (place === undefined) {
      const received = `${layer.part}.${layer.path}`;
      throw new InputError(
        `${source}: Expected layers of Stable Diffusion's denoiser and text encoders, for kohya's format, but received ${received}; PEFT's format can store it`,
      );
    }
    const { key: name, stored } = place;
    if (typeof stored === "object") {
      const joint = thirds.get(name) ?? [undefined, undefined, undefined];
      thirds.set(name, joint);
      joint[stored.qkv] = layer;
    } else named.set(name, stored === "swapped" ? swapHalves(layer) : layer);
  }
  for (const [name, joint] of thirds) named.set(name, joinThirds(joint, source));
  const [first] = named.values();
  return {
    layers: named,
    metadata: {
      ss_network_module: network,
      ss_network_dim: String(first?.a.size(0) ?? 0),
      ss_network_alpha: String(first?.alpha ?? 0),
      ss_v2: own === "sd2" ? "True" : "False",
      ss_base_model_version: version,
    },
  };
}

const familyOf = (layers: readonly LoraLayer[]): KohyaFamily =>
  (Object.keys(FAMILIES) as KohyaFamily[]).find((family) => FAMILIES[family].recognises(layers))!;

/** A layer's name in the file, and how it is stored there; undefined if the family has none. */
function placeOf(layer: LoraLayer, { prefixes, module }: Kohya, layersPerBlock?: number): StoredParameter | undefined {
  const { part, path } = layer;
  const prefix = prefixes[part];
  const isText = part.startsWith("text_encoder");
  const stored = isText || module === undefined ? { key: inTower(part, path) } : module(layer, layersPerBlock);
  if (prefix === undefined || stored === undefined) return undefined;
  return { ...stored, key: `${prefix}_${stored.key}`.replaceAll(".", "_") };
}

/** CLIP's paths begin with `text_model`, which transformers from 5.0 omits. */
const inTower = (part: LoraPart, path: string): string =>
  /^text_encoder(_2)?$/.test(part) && !/^text_(model|projection)/.test(path) ? `text_model.${path}` : path;

/**
 * A layer of a file in kohya's format as diffusers has it: what the original has as one becomes three.
 *
 * @param file named in errors
 * @throws InputError if it cannot be divided
 */
export function fromKohya(layer: LoraLayer, file: string): LoraLayer[] {
  const paths = layer.part === "transformer" ? sd3Paths(layer.path) : [];
  const [path] = paths;
  if (path === undefined) return [layer];
  if (paths.length > 1) return splitThirds(layer, paths, file);
  const { stored } = sd3Module(path, isShiftAndScale(layer))!;
  return [{ ...(stored === "swapped" ? swapHalves(layer) : layer), path }];
}
