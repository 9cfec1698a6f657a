/** `b2 eval`: reward, true alignment and diversity on training and held-out prompts. */
import type { Command } from "commander";
import type { Evaluation } from "../../b2/evaluation.js";
import { InputError } from "../../base/errors.js";
import { writeJson } from "../../base/files.js";
import { asInput } from "../errors.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { configOfLora, loadPolicy, loraOption, type LoraOption } from "../lora-option.js";
import { addConfigOptions, configFromOptions, type ConfigOptions, untrained } from "../options.js";
import { makeFolderOf } from "../output.js";
import { terminalProgress } from "../progress.js";
import { evaluationTable } from "../table.js";

interface EvalOptions extends ConfigOptions, LoraOption {
  readonly compare?: true;
  readonly out?: string;
}

export function addEvalCommand(program: Command): void {
  addConfigOptions(loraOption(program.command("eval")))
    .description("Measure reward, true alignment and diversity on training and held-out prompts.")
    .option("--compare", "the base model as well, on the same noise, and the change with its error")
    .option("--out <file>", "the same as JSON, with the numbers of every prompt")
    .addHelpText("after", example("b2 eval --preset demo", "b2 eval --lora runs/demo --compare --out eval.json"))
    .action(async (options: EvalOptions) => {
      if (options.compare === true && options.lora.length === 0) {
        throw new InputError(
          "Expected --lora with --compare, which measures it against the base model, but received none",
        );
      }
      const config = configOfLora(options, untrained) ?? configFromOptions(options, {}, untrained);
      await interruptible("", async (signal) => {
        const { evaluate } = await import("../../b2/evaluation.js");
        const { openJudges } = await import("../../b2/judges.js");
        const { readPromptLists } = await import("../../b2/prompts.js");
        const lists = readPromptLists(config);
        const { fetchModels } = await import("../../b2/model-folder.js");
        const context = { progress: terminalProgress(), signal };
        await fetchModels(config, context);
        const judges = await asInput(() => openJudges(config));
        const measure = async (weights: LoraOption, label: string): Promise<Evaluation> => {
          const policy = await asInput(() => loadPolicy(config, weights, context));
          try {
            return await evaluate(policy, judges, lists, config, { progress: terminalProgress(() => label), signal });
          } finally {
            policy.dispose();
          }
        };
        if (options.out !== undefined) makeFolderOf(options.out);
        // The given weights first: what is wrong with them shows before the base model is measured for nothing.
        const given = { [options.lora.length === 0 ? "base" : "LoRA"]: await measure(options, "") };
        const tables = options.compare === true ? { base: await measure({ lora: [] }, "base:"), ...given } : given;
        process.stdout.write(evaluationTable(tables));
        if (options.out !== undefined) writeJson(options.out, tables);
      });
    });
}
