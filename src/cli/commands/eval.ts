/** `b2 eval`: rewards, true alignment and diversity on training and held-out prompts. */
import type { Command } from "commander";
import { InputError } from "../../base/errors.js";
import { writeJson } from "../../base/files.js";
import type { Evaluation } from "../../eval/measures.js";
import { rowsOf } from "../events.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { checkPolicy, configFor, loadPolicy, loraOption, type LoraOption } from "../lora-option.js";
import { addConfigOptions, untrained, type ConfigOptions } from "../options.js";
import { makeFolderOf } from "../output-paths.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { evaluationTable } from "../table.js";

interface EvalOptions extends ConfigOptions, LoraOption, OutputOptions {
  readonly compare?: true;
  readonly out?: string;
}

export function addEvalCommand(program: Command): void {
  addOutputOptions(addConfigOptions(loraOption(program.command("eval"))))
    .description("Measure rewards, true alignment and diversity on training and held-out prompts.")
    .option("--compare", "also measure the base model, on the same noise, and print the change with its 95% interval")
    .option("--out <file>", "also write the results as JSON, with those of every prompt")
    .addHelpText("after", example("b2 eval --preset demo", "b2 eval --lora runs/demo --compare --out eval.json"))
    .action(async (options: EvalOptions) => {
      if (options.compare === true && options.lora.length === 0) {
        throw new InputError(
          "Expected --lora with --compare, which measures it against the base model, but received none",
        );
      }
      if (options.quiet === true && options.json !== true && options.out === undefined) {
        throw new InputError("Expected --out or --json with --quiet, which prints no table, but received neither");
      }
      const config = await configFor(options, untrained);
      const output = new Output("eval", options);
      await interruptible("", async (signal) => {
        const [{ readPromptLists, thinOut }, { openDevice }, { fetchModels }, { checkRewardsOf }] = [
          await import("../../b2/rollout/prompts.js"),
          await import("../../b2/policy/device.js"),
          await import("../../b2/models.js"),
          await import("../../b2/reward-problems.js"),
        ];
        const [{ evaluate }, { checkTruth, openJudges }, { resolveModel }, { RewardResources, RewardSet }] = [
          await import("../../eval/evaluate.js"),
          await import("../../eval/judges.js"),
          await import("../../hub/index.js"),
          await import("../../rewards/index.js"),
        ];
        const lists = readPromptLists(config);
        const uses = [lists.training, lists["held-out"] ?? []].flatMap((list) => thinOut(list, config.eval.maxPrompts));
        let prompts = [...lists.training, ...(lists["held-out"] ?? [])];
        checkTruth(config, lists);
        checkRewardsOf(config, lists);
        await checkPolicy(config, options);
        const device = openDevice(config);
        if (options.out !== undefined) makeFolderOf(options.out);
        output.started({ model: config.model.path, lora: options.lora });
        await fetchModels(config, { rewards: true, evaluation: true }, { progress: output.progress(), signal });
        const resources = new RewardResources(device, resolveModel);
        const judges = openJudges(config, await RewardSet.open(config.rewards, resources), resources);
        const measure = async (weights: LoraOption, label: string): Promise<Evaluation> => {
          const context = { progress: output.progress(() => label), signal };
          const policy = await loadPolicy(config, weights, context, { prompts, uses });
          prompts = []; // warned of once
          try {
            const evaluation = await evaluate(policy, judges, lists, config, context);
            const name = weights.lora.length === 0 ? "base" : "LoRA";
            output.event({ type: "evaluation", name, stages: null, rows: rowsOf(evaluation) });
            return evaluation;
          } finally {
            policy.dispose();
          }
        };
        // The given weights first, so that errors in them show before time is spent on the base model.
        const given = { [options.lora.length === 0 ? "base" : "LoRA"]: await measure(options, "") };
        const tables = options.compare === true ? { base: await measure({ lora: [] }, "base:"), ...given } : given;
        output.print(evaluationTable(tables));
        if (options.out !== undefined) writeJson(options.out, tables);
        output.finished(options.out === undefined ? [] : [options.out]);
      });
    });
}
