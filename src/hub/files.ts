/** Which files of a repository are needed: what the code reads, in the wanted variant, and nothing else of it. */
import { HubError } from "./error.js";

/** What a repository is wanted for. "weights": one file of weights, a LoRA. */
export type Purpose = "model" | "tokenizer" | "weights";

export interface Wanted {
  readonly purpose: Purpose;
  /** Take the weights of this form where there are such, as "fp16". */
  readonly variant?: string | undefined;
  /** One file alone. */
  readonly file?: string | undefined;
}

const PARTS = ["unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler"];
const TOKENIZER = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];
const SETTINGS = [...TOKENIZER, "config.json", "scheduler_config.json", "preprocessor_config.json"];

/**
 * The paths to download.
 *
 * @param paths of all files of the repository
 * @throws HubError saying what the repository lacks, and for pickles how to convert them
 */
export function neededFiles(repository: string, paths: readonly string[], wanted: Wanted): string[] {
  const { purpose, file } = wanted;
  if (file !== undefined) {
    if (paths.includes(file)) return [file];
    throw new HubError(`Expected ${file} in ${repository} but received a repository without it`);
  }
  if (purpose === "weights") {
    const lora = loraFile(repository, paths);
    // PEFT's own form says alpha in a file beside.
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
  if (paths.includes("model_index.json")) {
    const parts = PARTS.flatMap((part) => [...settings(part), ...weights(repository, part, inFolder(part), wanted)]);
    return ["model_index.json", ...parts];
  }
  if (paths.includes("config.json")) {
    const own = weights(repository, "", inFolder(""), wanted);
    if (own.length > 0) return [...settings(""), ...own];
  }
  throw new HubError(
    `Expected a model in diffusers' or transformers' layout in ${repository} but received one without model_index.json ` +
      `or config.json; name one file of it as ${repository}/<file>.safetensors`,
  );
}

/** A model's weights: one file or shards with their index, of the variant where there is one. */
function weights(repository: string, part: string, files: readonly string[], { variant }: Wanted): string[] {
  const stems = ["diffusion_pytorch_model", "model"];
  const of = (form: string | undefined): string[] => {
    const suffix = form === undefined ? "" : `\\.${form}`;
    const pattern = new RegExp(
      `^(${stems.join("|")})(${suffix}(-\\d+-of-\\d+)?\\.safetensors|\\.safetensors\\.index${suffix}\\.json)$`,
    );
    return files.filter((path) => pattern.test(nameOf(path)));
  };
  const ofVariant = variant === undefined ? [] : of(variant);
  const found = ofVariant.length > 0 ? ofVariant : of(undefined);
  if (found.length > 0) return found;
  if (files.some((path) => /\.(bin|ckpt|pt)$/.test(path))) {
    throw new HubError(
      `Expected safetensors weights in ${repository}${part && `/${part}`} but received pickles, which can run any code ` +
        "when they are loaded. Convert them once with Python's diffusers, where you trust their origin: " +
        `python -c "from diffusers import DiffusionPipeline as P; P.from_pretrained('${repository}').save_pretrained('<new folder>')"`,
    );
  }
  return [];
}

function loraFile(repository: string, paths: readonly string[]): string {
  const usual = "pytorch_lora_weights.safetensors";
  if (paths.includes(usual)) return usual;
  const all = paths.filter((path) => path.endsWith(".safetensors"));
  if (all.length === 1) return all[0]!;
  const received = all.length === 0 ? "a repository without any" : all.slice(0, 5).join(", ");
  throw new HubError(
    `Expected ${usual}, or one safetensors file, in ${repository} but received ${received}; name one as ${repository}/<file>`,
  );
}

const nameOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1);
const parentOf = (path: string): string => path.slice(0, Math.max(0, path.lastIndexOf("/")));
