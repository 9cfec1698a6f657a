/** `b2 score`: what rewards say of a folder of images. */
import type { Command } from "commander";
import { InputError } from "../../base/errors.js";
import { writeJson } from "../../base/files.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addConfigOptions, collect, configFromOptions, untrained, type ConfigOptions } from "../options.js";
import { makeFolderOf } from "../output-paths.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { scoreTables } from "../score-table.js";

interface ScoreOptions extends ConfigOptions, OutputOptions {
  readonly rewards: readonly string[];
  readonly prompts?: string;
  readonly out?: string;
}

export function addScoreCommand(program: Command): void {
  addOutputOptions(addConfigOptions(program.command("score <images>")))
    .description("Score a folder of images with rewards, to check them before a run.")
    .option(
      "--rewards <value>",
      "what --set rewards= takes: a name, a module's path, or a JSON list; repeatable",
      collect,
      [],
    )
    .option(
      "--prompts <file>",
      "JSON Lines with file_name and prompt (or text); default: metadata.jsonl of the folder, else the images' names",
    )
    .option("--out <file>", "also write the scores of every image as JSON")
    .addHelpText(
      "after",
      example(
        "b2 score images --rewards brightness",
        "b2 score images --preset sd --rewards clip-score --rewards ./mine.js --out scores.json",
        `b2 score photos --prompts prompts.jsonl --rewards '[{"name":"jpeg-compressibility","weight":0.1}]'`,
      ),
    )
    .action(async (folder: string, options: ScoreOptions) => {
      if (options.quiet === true && options.json !== true && options.out === undefined) {
        throw new InputError("Expected --out or --json with --quiet, which prints no table, but received neither");
      }
      const config = await configFromOptions(await withRewards(options), { last: untrained });
      const output = new Output("score", options);
      await interruptible("", async (signal) => {
        const [{ readImageFolder }, { checkImages, scoreFolder }, { summarisePrompts, summariseRewards }] = [
          await import("../../eval/image-folder.js"),
          await import("../../eval/score-folder.js"),
          await import("../../eval/score-summary.js"),
        ];
        const [{ openDevice }, { scoringModels, warnOfToyClip }, { fetchModel, resolveModel }] = [
          await import("../../b2/policy/device.js"),
          await import("../../b2/models.js"),
          await import("../../hub/index.js"),
        ];
        const { expectRewards, RewardResources, RewardSet } = await import("../../rewards/index.js");
        const context = { progress: output.progress(), signal };
        expectRewards(config.rewards);
        const { images, prompts, missing } = readImageFolder(folder, options.prompts);
        const device = openDevice(config);
        if (options.out !== undefined) makeFolderOf(options.out);
        output.started({ folder, images: images.length });
        if (missing.length > 0) {
          context.progress.log(
            `${prompts} names ${missing.length} images that are not in ${folder}, such as ${missing[0]}`,
          );
        }
        if (options.preset.length === 0) warnOfToyClip({ ...config, model: { ...config.model, path: folder } }, context.progress); // prettier-ignore
        const sized = await checkImages(folder, images, context);
        for (const path of scoringModels(config, { rewards: true })) await fetchModel(path, {}, context);
        const resources = new RewardResources(device, resolveModel);
        try {
          const rewards = await RewardSet.open(config.rewards, resources);
          try {
            const batches = { device, batchSize: config.sample.decodeBatchSize };
            const scores = await resources.using(() => scoreFolder(rewards, folder, sized, batches, context));
            const summary = summariseRewards(scores);
            output.print(scoreTables(scores));
            if (options.out !== undefined) {
              const details = { folder, promptsFrom: prompts ?? "names", device };
              const found = { rewards: summary, prompts: summarisePrompts(scores.images), images: scores.images };
              writeJson(options.out, { ...details, config: config.rewards, ...found });
            }
            output.finished(options.out === undefined ? [] : [options.out], { rewards: summary });
          } finally {
            rewards.dispose();
          }
        } finally {
          resources.dispose();
        }
      });
    });
}

/** The options with --rewards as the first of --set, so that the others can change its items. */
async function withRewards(options: ScoreOptions): Promise<ScoreOptions> {
  const { rewards, preset, config, set } = options;
  if (rewards.length === 0) {
    if (preset.length > 0 || config.length > 0 || set.some((one) => one.startsWith("rewards"))) return options;
    throw new InputError("Expected --rewards, or a config with rewards by --preset, --config or --set, but received none");
  }
  const { parseAssignments } = await import("../../b2/config/resolve.js");
  const named = rewards.flatMap((value) => parseAssignments([`rewards=${value}`])["rewards"] as unknown);
  return { ...options, set: [`rewards=${JSON.stringify(named)}`, ...set] };
}
