/** Selects the files of a repository to download: only those that the code reads, in the wanted variant. */
import { HubError } from "./error.js";

/**
 * What a repository is downloaded for. "settings": configs and tokenizers without weights, for a single-file
 * checkpoint. "weights": one file of weights, a LoRA.
 */
export type DownloadPurpose = "model" | "settings" | "tokenizer" | "weights";

/** What to download of a repository. */
export interface Wanted {
  readonly purpose: DownloadPurpose;
  /** For "settings": folders whose weights are wanted too, where the repository has them. */
  readonly weights?: readonly string[] | undefined;
  /** Prefer weights of this variant, such as "fp16". */
  readonly variant?: string | undefined;
  /** Only this file. */
  readonly file?: string | undefined;
  /** The folders of a pipeline, one layout per family. Default: Stable Diffusion's. */
  readonly layouts?: readonly RepositoryLayout[] | undefined;
}

/** Folders of a repository that make up a pipeline. */
export interface RepositoryLayout {
  /** Folders with weights, all required; that of the denoiser first. */
  readonly weights: readonly string[];
  /** Folders with weights that a repository may lack. */
  readonly optionalWeights?: readonly string[];
  /** Folders with only configs or tokenizers. */
  readonly settings: readonly string[];
}

/** Stable Diffusion's folders; only XL has a second text encoder. */
const STABLE_DIFFUSION: RepositoryLayout = {
  weights: ["unet", "vae", "text_encoder"],
  optionalWeights: ["text_encoder_2"],
  settings: ["tokenizer", "tokenizer_2", "scheduler"],
};
const TOKENIZER = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];
/** The second one is OpenCLIP's. */
const MODEL_CONFIGS = ["config.json", "open_clip_config.json"];
const SETTINGS = [
  ...TOKENIZER,
  ...MODEL_CONFIGS,
  "tokenizer.json",
  "chat_template.jinja",
  "scheduler_config.json",
  "preprocessor_config.json",
];
/** The last two are OpenCLIP's. */
const STEMS = ["diffusion_pytorch_model", "model", "open_clip_model", "open_clip_pytorch_model"];
const PICKLE = /\.(bin|ckpt|pt|pth)$/;
const PICKLES = "pickles, which can run any code when they are loaded. If you trust their origin, convert them once";

/**
 * The paths to download.
 *
 * @param paths all files of the repository
 * @throws HubError naming what the repository lacks, and for pickles how to convert them
 */
export function neededFiles(repository: string, paths: readonly string[], wanted: Wanted): string[] {
  const { purpose, file } = wanted;
  if (file !== undefined) {
    if (paths.includes(file)) return [file];
    throw new HubError(`Expected ${file} in ${repository} but received a repository without it`);
  }
  if (purpose === "weights") {
    const lora = loraFile(repository, paths);
    // PEFT's own format stores alpha in a separate file.
    const beside = lora.replace(/adapter_model\.safetensors$/, "adapter_config.json");
    return beside !== lora && paths.includes(beside) ? [lora, beside] : [lora];
  }
  const inFolder = (folder: string): string[] => paths.filter((path) => parentOf(path) === folder);
  const settings = (folder: string): string[] => inFolder(folder).filter((path) => SETTINGS.includes(nameOf(path)));
  if (purpose === "tokenizer") {
    const found = inFolder("").filter((path) => TOKENIZER.includes(path));
    if (found.includes("vocab.json") && found.includes("merges.txt")) return found;
    throw new HubError(`Expected vocab.json and merges.txt in ${repository} but received a repository without them`);
  }
  const isPipeline = paths.includes("model_index.json");
  if (!isPipeline && !MODEL_CONFIGS.some((name) => paths.includes(name))) {
    throw new HubError(
      `Expected a model in diffusers' or transformers' layout in ${repository} but received one without model_index.json ` +
        `or config.json; name one file of it as ${repository}/<file>.safetensors`,
    );
  }
  const layout = layoutOf(wanted.layouts ?? [STABLE_DIFFUSION], (folder) => inFolder(folder).length > 0);
  const optional = layout.optionalWeights ?? [];
  const all = [...layout.weights, ...optional, ...layout.settings];
  const configs = isPipeline ? ["model_index.json", ...all.flatMap(settings)] : settings("");
  const present = (folders: readonly string[]): string[] => folders.filter((folder) => inFolder(folder).length > 0);
  const parts =
    purpose === "settings"
      ? present(wanted.weights ?? [])
      : isPipeline
        ? [...layout.weights, ...present(optional)]
        : [""];
  if (parts.length === 0) return configs;
  return [...configs, ...weights(repository, new Map(parts.map((part) => [part, inFolder(part)])), wanted)];
}

/** The first layout with all its folders present; else the first of all, so that the error names what is missing. */
function layoutOf(layouts: readonly RepositoryLayout[], has: (folder: string) => boolean): RepositoryLayout {
  return layouts.find(({ weights }) => weights.every(has)) ?? layouts[0] ?? STABLE_DIFFUSION;
}

/** The weight files of each part: one file, or shards with their index, of the variant if the part has it. */
function weights(
  repository: string,
  parts: ReadonlyMap<string, readonly string[]>,
  { variant }: Pick<Wanted, "variant">,
): string[] {
  const found: string[] = [];
  let isVaried = variant === undefined;
  for (const [part, files] of parts) {
    const ofVariant = variant === undefined ? [] : ofForm(files, `.${variant}`);
    const taken = ofVariant.length > 0 ? ofVariant : ofForm(files, "");
    if (taken.length === 0)
      throw noWeights(part === "" ? repository : `${repository}/${part}`, repository, files, variant);
    isVaried ||= ofVariant.length > 0;
    found.push(...taken);
  }
  if (isVaried) return found;
  throw new HubError(`Expected weights of the variant ${variant} in ${repository} but received none`);
}

/** The weight files of one variant. @param infix of the file names: "" or ".fp16" */
function ofForm(files: readonly string[], form: string): string[] {
  for (const stem of STEMS) {
    const named = (name: string): string[] => files.filter((path) => nameOf(path) === name);
    const single = named(`${stem}${form}.safetensors`);
    if (single.length > 0) return single;
    const index = named(`${stem}.safetensors.index${form}.json`);
    const shard = new RegExp(`^${stem}${form.replace(".", "\\.")}-\\d+-of-\\d+\\.safetensors$`);
    if (index.length > 0) return [...index, ...files.filter((path) => shard.test(nameOf(path)))];
  }
  return [];
}

function noWeights(where: string, repository: string, files: readonly string[], variant: string | undefined): HubError {
  const form = variant === undefined ? "" : ` of the variant ${variant}`;
  const variants = files.flatMap(
    (path) => /model\.([\w-]+?)(?:-\d+-of-\d+)?\.safetensors$/.exec(nameOf(path))?.[1] ?? [],
  );
  if (variants.length > 0) {
    const received = [...new Set(variants)].join(", ");
    return new HubError(
      `Expected weights${form} in ${where} but received only the variants ${received}; choose one of them`,
    );
  }
  if (!files.some((path) => PICKLE.test(path))) {
    return new HubError(`Expected safetensors weights in ${where} but received none`);
  }
  const convert =
    where === repository
      ? `transformers, beside the other files: python -c "from transformers import AutoModel as M; M`
      : `diffusers: python -c "from diffusers import DiffusionPipeline as P; P`;
  return new HubError(
    `Expected safetensors weights in ${where} but received ${PICKLES}, with Python's ${convert}` +
      `.from_pretrained('${repository}').save_pretrained('<new folder>')". Or name a pull request with a conversion, if ` +
      `there is one: ${repository}@refs/pr/<number>`,
  );
}

function loraFile(repository: string, paths: readonly string[]): string {
  const usual = "pytorch_lora_weights.safetensors";
  if (paths.includes(usual)) return usual;
  const all = paths.filter((path) => path.endsWith(".safetensors"));
  if (all.length === 1) return all[0]!;
  const pickle = paths.find((path) => PICKLE.test(path));
  if (all.length === 0 && pickle !== undefined) {
    throw new HubError(
      `Expected ${usual} in ${repository} but received ${PICKLES}: python -c "import torch, safetensors.torch as s; ` +
        `s.save_file(torch.load('${pickle}', weights_only=True), '${usual}')"`,
    );
  }
  const received = all.length === 0 ? "a repository without any" : all.slice(0, 5).join(", ");
  throw new HubError(
    `Expected ${usual}, or one safetensors file, in ${repository} but received ${received}; name one as ${repository}/<file>`,
  );
}

const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);
const parentOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")));
