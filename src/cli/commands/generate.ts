/** `b2 generate`: prompts to PNG files, with or without LoRAs, and a file that says which is of which prompt. */
import { basename } from "node:path";
import type { Command } from "commander";
import { InputError } from "../../base/errors.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { checkPolicy, configFor, loadPolicy, loraOption, type LoraOption } from "../lora-option.js";
import { addConfigOptions, expectFewImages, untrained, wholeNumber, type ConfigOptions } from "../options.js";
import { expectOutputFolder } from "../output-paths.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";

interface GenerateOptions extends ConfigOptions, LoraOption, OutputOptions {
  readonly prompts?: string;
  readonly out: string;
  readonly count: number;
}

export function addGenerateCommand(program: Command): void {
  addOutputOptions(addConfigOptions(loraOption(program.command("generate [prompt...]"))))
    .description("Generate images of prompts as PNG files.")
    .option("--prompts <file>", "prompts from a file: a JSON list, or text with one per line")
    .option("--out <folder>", "folder to write the images to, with their prompts in metadata.jsonl", "images")
    .option("--count <number>", "images per prompt", wholeNumber(1), 1)
    .addHelpText(
      "after",
      example(
        'b2 generate "a cat riding a bike" --preset demo --count 4',
        "b2 generate --prompts prompts.txt --lora runs/demo --out after",
      ),
    )
    .action(async (words: string[], options: GenerateOptions) => {
      const config = await configFor(options, untrained);
      const { readPromptLists, readPrompts } = await import("../../b2/rollout/prompts.js");
      if (words.some((word) => word.trim() === "")) throw new InputError("Expected a prompt but received an empty one");
      const source = options.prompts ?? [];
      const { training, metadata } = readPromptLists({
        prompts: { ...config.prompts, order: "random", train: source, heldOut: null },
      });
      const prompts = [...readPrompts(words), ...training];
      if (prompts.length === 0)
        throw new InputError("Expected a prompt, or --prompts with a file of them, but received neither");
      expectFewImages(prompts.length * options.count, "the prompts and --count");
      await interruptible("Finished images stay.", async (signal) => {
        const output = new Output("generate", options);
        const context = { progress: output.progress(), signal };
        await checkPolicy(config, options);
        expectOutputFolder(options.out);
        const { openPromptsFile } = await import("../../eval/image-folder.js");
        const writePrompts = openPromptsFile(options.out);
        output.started({ model: config.model.path, lora: options.lora, prompts: prompts.length, count: options.count });
        const policy = await loadPolicy(config, options, context, { prompts });
        const { generateToFolder } = await import("../../eval/generate.js");
        const folder = { folder: options.out, count: options.count };
        const files = await generateToFolder(policy, prompts, folder, config, context);
        writePrompts(
          files.map((file, i) => {
            const prompt = prompts[Math.floor(i / options.count)]!;
            return { name: basename(file), prompt, metadata: metadata?.get(prompt) ?? {} };
          }),
        );
        output.print(`${files.length} images in ${options.out}\n`);
        output.finished(files);
      });
    });
}
