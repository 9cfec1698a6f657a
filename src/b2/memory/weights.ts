/**
 * An upper bound on the memory of weights during a run, from the headers of the files: the model in training with its
 * optimiser state, and the models that score. Nothing is loaded. Activations are passes.ts's.
 */
import { readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { optionsOf, type Named } from "../../base/registry.js";
import { findModel } from "../../hub/index.js";
import { momentBytes } from "../../optim/index.js";
import { familyOf, type ModelFamily } from "../../pipeline/index.js";
import { rewards, USUAL_PLACEMENT, type Placement } from "../../rewards/index.js";
import { readHeader, type TensorEntry } from "../../safetensors/index.js";
import type { Config } from "../config/schema.js";
import { modelsOf } from "../models.js";
import { needsOf } from "../objectives/index.js";

/** Bytes of weights on a device. */
export interface WeightMemory {
  readonly scoring: number;
  readonly training: number;
  /** While the run's prompts are encoded, where text encoders are freed afterwards. */
  readonly encoding?: number;
}

/** What is known of a run's weights before anything is downloaded or loaded. */
export interface MemoryEstimate {
  /** By device, as the config writes it. */
  readonly devices: ReadonlyMap<string, WeightMemory>;
  /** Models that are not on this machine, and not counted. */
  readonly unknown: readonly string[];
}

const BYTES = { float32: 4, bfloat16: 2, float16: 2 } as const;

/** A model that scores, and where. */
interface ScoringModel extends Pick<Placement, "dtype" | "offload"> {
  readonly path: string;
  readonly device: string;
}

/** The most that weights take while images are scored, and while the model trains. */
export function weightMemory(config: Config): MemoryEstimate {
  const devices = new Map<string, { -readonly [phase in keyof WeightMemory]: WeightMemory[phase] }>();
  const unknown: string[] = [];
  const add = (device: string, bytes: Partial<WeightMemory>): void => {
    const sum = devices.get(device) ?? { scoring: 0, training: 0 };
    sum.scoring += bytes.scoring ?? 0;
    sum.training += bytes.training ?? 0;
    if (encodesFirst) sum.encoding = (sum.encoding ?? 0) + (bytes.encoding ?? 0);
    devices.set(device, sum);
  };
  const policy = policyBytes(config);
  const encodesFirst = policy?.offloads === "freed";
  if (policy === undefined) unknown.push(config.model.path);
  else addPolicy(policy, config.model, add);
  for (const { path, device, dtype, offload } of scoringModels(config)) {
    const found = findModel(path);
    if (found === undefined) {
      unknown.push(path);
      continue;
    }
    const bytes = sum(weightFilesIn(found).flatMap(entriesOf).map(sizeOf)) * BYTES[dtype];
    add(device, { scoring: bytes });
    add(offload ? "cpu" : device, { training: bytes, encoding: bytes });
  }
  return { devices, unknown: [...new Set(unknown)] };
}

/** The scoring models that a run holds: those of one path, device and dtype are one, which is offloaded if all agree. */
function scoringModels(config: Config): ScoringModel[] {
  const held = new Map<string, ScoringModel>();
  for (const named of config.rewards) {
    const { device, dtype, offload } = placementIn(named);
    for (const needed of modelsOf(named)) {
      if (needed.purpose === "settings") continue;
      const { path } = needed;
      const model = { path, device: device ?? config.model.device, dtype: needed.dtype ?? dtype, offload };
      const key = JSON.stringify([path, model.device, model.dtype]);
      held.set(key, { ...model, offload: offload && (held.get(key)?.offload ?? true) });
    }
  }
  const { enabled, clip } = config.eval;
  const isThere = [...held.values()].some(({ path }) => path === clip);
  return [
    ...held.values(),
    ...(enabled && clip !== null && !isThere ? [{ ...USUAL_PLACEMENT, path: clip, device: config.model.device }] : []),
  ];
}

/** Where a reward's options put its models; rewards without such options have the usual place. */
function placementIn(named: Named): Placement {
  return { ...USUAL_PLACEMENT, ...(optionsOf(rewards.get(named.name), named) as Partial<Placement>) };
}

/** Bytes of the policy's model. */
interface PolicyBytes {
  /** With `model.offload`: whether its text encoders wait in main memory, or are freed; and if none of it. */
  readonly offloads: "waiting" | "freed" | "nothing";
  /** The denoiser with what is trained, its optimiser state, and its copies. */
  readonly denoiser: number;
  readonly decoder: number;
  /** What encodes prompts, and whatever else there is. */
  readonly text: number;
}

/**
 * With `model.offload` prompts are encoded and images decoded in turn; all of it waits on the CPU while the model trains. Text
 * encoders that are freed come before the denoiser is loaded.
 */
function addPolicy(
  { offloads, denoiser, decoder, text }: PolicyBytes,
  { device }: Config["model"],
  add: (device: string, bytes: Partial<WeightMemory>) => void,
): void {
  const isAway = device !== "cpu";
  if (offloads === "freed") {
    add(device, { scoring: denoiser + decoder, training: denoiser, encoding: text });
    add(
      "cpu",
      isAway ? { scoring: decoder, training: decoder, encoding: decoder } : { training: decoder, encoding: decoder },
    );
    return;
  }
  if (offloads === "nothing" || !isAway) {
    const all = denoiser + decoder + text;
    add(device, { scoring: all, training: all });
    return;
  }
  add(device, { scoring: denoiser + Math.max(decoder, text), training: denoiser });
  add("cpu", { scoring: decoder + text, training: decoder + text });
}

/** undefined if the model is not on this machine */
function policyBytes(config: Config): PolicyBytes | undefined {
  const { model, train, objective } = config;
  const found = findModel(model.path, model);
  if (found === undefined) return undefined;
  const family = familyOf(found);
  const { denoiser, decoder, others } = partsOf(found, family, model.variant);
  const frozen = BYTES[model.dtype];
  const canOffload = model.offload && family.decoder !== undefined;
  const rest = {
    offloads: canOffload ? (family.freesEncoders === true ? "freed" : "waiting") : "nothing",
    decoder: sum(decoder.map(sizeOf)) * frozen,
    text: sum(others.map((entry) => sizeOf(entry) * (entry.inHalf === true ? BYTES.float16 : frozen))),
  } as const;
  const needs = needsOf(objective);
  const followers = (train.ema === null ? 0 : 1) + (needs.samplerDecay === null ? 0 : 1);
  const trained = trainedTensors(config, denoiser, family);
  const learning = sum(trained.map((size) => 2 * size * BYTES.float32 + momentBytes(size, train)));
  const copies = followers + (train.parameters === "full" && needs.base ? 1 : 0);
  const all = sum([...denoiser.values()].map(sizeOf));
  const frozenBytes = (train.parameters === "full" ? all - sum(trained) : all) * frozen;
  return { ...rest, denoiser: frozenBytes + learning + copies * sum(trained) * BYTES.float32 };
}

/** Elements of each tensor that is trained; undefined if the model is not on this machine. */
export function trainedSizes({ model, train, lora }: Pick<Config, "model" | "train" | "lora">): number[] | undefined {
  const found = findModel(model.path, model);
  if (found === undefined) return undefined;
  const family = familyOf(found);
  return trainedTensors({ train, lora }, partsOf(found, family, model.variant).denoiser, family);
}

function trainedTensors(
  { train, lora }: Pick<Config, "train" | "lora">,
  denoiser: Parts["denoiser"],
  { loraTargets = [], buffers = [] }: ModelFamily,
): number[] {
  if (train.parameters === "full") {
    return [...denoiser].filter(([key]) => !buffers.includes(key)).map(([, entry]) => sizeOf(entry));
  }
  return loraSizes(denoiser, lora.targetModules ?? loraTargets, lora.rank);
}

/** A tensor, and whether it stays in half precision whatever the model's dtype. */
interface HeldEntry extends TensorEntry {
  readonly inHalf?: boolean;
}

interface Parts {
  readonly denoiser: ReadonlyMap<string, TensorEntry>;
  readonly decoder: readonly TensorEntry[];
  readonly others: readonly HeldEntry[];
}

/** The names of denoiser and decoder in checkpoints of one file. */
const [DENOISER_PREFIX, DECODER_PREFIX] = ["model.diffusion_model.", "first_stage_model."];

function partsOf(path: string, family: ModelFamily, variant: string | null): Parts {
  const { repository, decoder } = family;
  if (statSync(path).isFile()) {
    const all = [...readHeader(path).tensors];
    const isDenoiser = ([key]: [string, TensorEntry]): boolean => key.startsWith(DENOISER_PREFIX);
    const others = all.filter((entry) => !isDenoiser(entry));
    const isDecoder = ([key]: [string, TensorEntry]): boolean => key.startsWith(DECODER_PREFIX);
    return {
      denoiser: new Map(all.filter(isDenoiser)),
      decoder: others.filter(isDecoder).map(([, entry]) => entry),
      others: others.filter((entry) => !isDecoder(entry)).map(([, entry]) => entry),
    };
  }
  const [first, ...rest] = [...(repository?.weights ?? []), ...(repository?.optionalWeights ?? [])];
  if (first === undefined)
    return { denoiser: new Map(), decoder: [], others: weightFilesIn(path, variant).flatMap(entriesOf) };
  const filesOf = (part: string): string[] => {
    const folder = family.partFolder === undefined ? join(path, part) : family.partFolder(path, part);
    return folder === null ? [] : weightFilesIn(folder, variant);
  };
  const isKept = (part: string, { dtype }: TensorEntry): boolean =>
    (dtype === "F16" || dtype === "BF16") && family.keptInHalf?.includes(part) === true;
  const heldIn = (part: string): HeldEntry[] =>
    filesOf(part)
      .flatMap(entriesOf)
      .map((entry) => ({ ...entry, inHalf: isKept(part, entry) }));
  return {
    denoiser: new Map(filesOf(first).flatMap((file) => [...readHeader(file).tensors])),
    decoder: rest.filter((part) => part === decoder).flatMap(heldIn),
    others: rest.filter((part) => part !== decoder).flatMap(heldIn),
  };
}

/** The weights of a LoRA: A and B of every layer that it adapts. */
function loraSizes(denoiser: Parts["denoiser"], targets: readonly string[], rank: number): number[] {
  const isTarget = (layer: string): boolean => targets.some((name) => layer === name || layer.endsWith(`.${name}`));
  const adapted = [...denoiser].filter(([key]) => key.endsWith(".weight") && isTarget(key.slice(0, -".weight".length)));
  return adapted.flatMap(([, { shape }]) => [rank * sizeOf({ shape: shape.slice(1) }), rank * shape[0]!]);
}

const WEIGHTS =
  /^(?:diffusion_pytorch_model|model|open_clip_model|open_clip_pytorch_model)(?:\.([\w-]+?))?(?:-\d+-of-\d+)?\.safetensors$/;

/** The files of a folder that are loaded, or the file itself: those of the variant if there are any. */
function weightFilesIn(path: string, variant: string | null = null): string[] {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (stat?.isDirectory() !== true) return stat === undefined ? [] : [path];
  const files = readdirSync(path).filter((name) => WEIGHTS.test(name));
  const ofForm = (form: string | undefined): string[] => files.filter((name) => WEIGHTS.exec(name)![1] === form);
  const varied = variant === null ? [] : ofForm(variant);
  return (varied.length > 0 ? varied : ofForm(undefined)).map((name) => join(path, name));
}

const entriesOf = (file: string): TensorEntry[] => [...readHeader(file).tensors.values()];
const sizeOf = ({ shape }: Pick<TensorEntry, "shape">): number => shape.reduce((product, size) => product * size, 1);
const sum = (numbers: readonly number[]): number => numbers.reduce((total, number) => total + number, 0);
