/** `b2 download`, `b2 merge` and `b2 convert`: fetch models, merge LoRAs into them, and convert file formats. */
import { existsSync, statSync } from "node:fs";
import { Option, type Command } from "commander";
import { InputError } from "../../base/errors.js";
import { isPickle, pickleRefused } from "../../base/pickle.js";
import type { RunContext } from "../../base/progress.js";
import { RunReader } from "../../runs/reader.js";
import { findAddon } from "../../torch/addon.js";
import type { DType } from "../../torch/index.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { checkPolicy, configFor, loadPolicy, loraOption, type LoraOption } from "../lora-option.js";
import { addConfigOptions, type ConfigOptions } from "../options.js";
import { makeFolderOf } from "../output-paths.js";
import { terminalProgress } from "../progress.js";
import { printOut } from "../terminal.js";

export function addModelCommands(program: Command): void {
  addDownload(program);
  addMerge(program);
  addConvert(program);
}

interface DownloadOptions {
  readonly revision?: string;
  readonly variant?: string;
}

function addDownload(program: Command): void {
  program
    .command("download <name>")
    .description("Download a model from the Hugging Face hub into the cache that Python's huggingface_hub shares.")
    .option("--revision <name>", "branch, tag or commit (default: main)")
    .option("--variant <name>", "variant of the weights, such as fp16")
    .addHelpText(
      "after",
      example(
        "b2 download stable-diffusion-v1-5/stable-diffusion-v1-5 --variant fp16",
        "b2 download stabilityai/stable-diffusion-xl-base-1.0/sd_xl_base_1.0.safetensors",
      ),
    )
    .action(async (name: string, options: DownloadOptions) => {
      await interruptible("The same command resumes the download.", async (signal) => {
        const { fetchDiffusionModel } = await import("../../b2/models.js");
        const { revision = null, variant = null } = options;
        const context = { progress: terminalProgress(), signal };
        const folder = await fetchDiffusionModel({ path: name, revision, variant }, context);
        printOut(`${folder}\n`);
      });
    });
}

function addMerge(program: Command): void {
  addConfigOptions(loraOption(program.command("merge <folder>")))
    .description("Write a model with LoRAs merged into its weights as a new folder in diffusers' layout.")
    .addHelpText(
      "after",
      example(
        "b2 merge merged --lora runs/mine",
        "b2 merge merged --lora style.safetensors:0.6 --lora runs/mine --set model.path=stable-diffusion-v1-5/stable-diffusion-v1-5",
      ),
    )
    .action(async (folder: string, options: ConfigOptions & LoraOption) => {
      if (options.lora.length === 0)
        throw new InputError("Expected --lora with the weights to merge but received none");
      const config = await configFor(options);
      // Checked first, so that no time is lost loading the model.
      const { expectNewFolder } = await import("../../pipeline/index.js");
      expectNewFolder(folder);
      await checkPolicy(config, options);
      await interruptible("", async (signal) => {
        const context = { progress: terminalProgress(), signal };
        const policy = await loadPolicy(config, options, context);
        policy.merge();
        policy.model.savePretrained(folder);
        printOut(`${folder}\n`);
      });
    });
}

interface ConvertOptions {
  readonly form?: "peft" | "kohya";
  readonly dtype?: DType;
  readonly modelConfig?: string;
  readonly variant?: string;
}

function addConvert(program: Command): void {
  program
    .command("convert <from> <to>")
    .description(
      "Convert a model, local or on the Hugging Face hub, between a diffusers folder and one file in the original layout; or a LoRA between PEFT's and kohya's format. A run folder stands for its latest LoRA.",
    )
    .addOption(new Option("--form <name>", "for a LoRA: the format to write").choices(["peft", "kohya"]))
    .addOption(
      new Option("--dtype <name>", "for a model: dtype of the written weights (default: float32)").choices([
        "float32",
        "float16",
        "bfloat16",
      ]),
    )
    .option("--model-config <folder>", "for a single-file model: a folder with its configs and tokenizers")
    .option("--variant <name>", "for a model folder: variant of the weights to read, such as fp16")
    .addHelpText(
      "after",
      example(
        "b2 convert stable-diffusion-v1-5/stable-diffusion-v1-5 sd15.safetensors --dtype float16",
        "b2 convert sd15.safetensors stable-diffusion --model-config stable-diffusion-v1-5/stable-diffusion-v1-5",
        "b2 convert runs/mine mine.safetensors --form kohya",
      ),
    )
    .action(async (from: string, to: string, options: ConvertOptions) => {
      if (isPickle(from)) throw new InputError(pickleRefused(from));
      if (/\.(ckpt|bin|pth?|txt|json)$/i.test(to))
        throw new InputError(`Expected a folder, or a file that ends in .safetensors, to write to but received ${to}`);
      findAddon();
      const source = RunReader.exists(from) ? await loraOfRun(from) : from;
      await interruptible("", async (signal) => {
        if (existsSync(source) && (await isLora(source))) await convertLora(source, to, options);
        else await convertModel(source, to, options, { progress: terminalProgress(), signal });
        printOut(`${to}\n`);
      });
    });
}

async function loraOfRun(folder: string): Promise<string> {
  const { weightsOfRun } = await import("../../b2/policy/weights.js");
  const { kind, path } = weightsOfRun(folder);
  if (kind === "lora") return path;
  throw new InputError(
    `Expected a run that trained a LoRA but ${folder} trained the whole model; convert ${folder}/model instead`,
  );
}

/** A folder with a LoRA in it, or a file whose keys are those of one. */
async function isLora(path: string): Promise<boolean> {
  const { loraFileIn, parseLoraKey } = await import("../../lora/index.js");
  if (statSync(path).isDirectory()) return loraFileIn(path) !== undefined;
  const { readHeader } = await import("../../safetensors/index.js");
  return [...readHeader(path).tensors.keys()].some((key) => parseLoraKey(key) !== undefined);
}

async function convertLora(from: string, to: string, options: ConvertOptions): Promise<void> {
  const { form } = options;
  refuseOption(options, ["dtype", "modelConfig", "variant"], "a LoRA", from);
  if (form === undefined) throw new InputError("Expected --form peft or --form kohya for a LoRA but received neither");
  if (existsSync(to)) throw new InputError(`Expected a new file to write to but received ${to}, which exists`);
  const { convertLora: convert } = await import("../../lora/index.js");
  convert(from, to, { form });
}

/** Refuses options that would have no effect. @throws InputError naming the first */
function refuseOption(options: ConvertOptions, names: readonly (keyof ConvertOptions)[], kind: string, from: string) {
  const name = names.find((name) => options[name] !== undefined);
  if (name === undefined) return;
  const option = name === "modelConfig" ? "--model-config" : `--${name}`;
  throw new InputError(`Expected no ${option} for ${kind} but received ${options[name]} for ${from}`);
}

async function convertModel(from: string, to: string, options: ConvertOptions, context: RunContext): Promise<void> {
  const { dtype = "float32", modelConfig, variant } = options;
  if (from.endsWith(".safetensors")) refuseOption(options, ["form", "variant"], "a single-file model", from);
  else refuseOption(options, ["form", "modelConfig"], "a model folder", from);
  if (existsSync(to))
    throw new InputError(`Expected a new file or folder to write to but received ${to}, which exists`);
  const { openModel } = await import("../../pipeline/index.js");
  const { fetchDiffusionModel, locateDiffusionModel } = await import("../../b2/models.js");
  const place = { path: from, variant: variant ?? null, config: modelConfig ?? null, revision: null };
  await fetchDiffusionModel(place, context);
  const { folder, config } = locateDiffusionModel(place);
  const model = openModel(folder, {
    dtype,
    ...(variant !== undefined && { variant }),
    ...(config !== undefined && { config }),
  });
  makeFolderOf(to);
  if (!to.endsWith(".safetensors")) model.savePretrained(to);
  else if (model.saveSingleFile !== undefined) model.saveSingleFile(to);
  else throw new InputError(`Expected a folder to write to for a model of ${model.family} but received ${to}`);
  model.dispose();
}
