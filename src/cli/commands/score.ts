/** `b2 score`: what rewards say of a folder of images. */
import type { Command } from "commander";
import type { Config } from "../../b2/config/schema.js";
import { InputError } from "../../base/errors.js";
import { writeJson } from "../../base/files.js";
import type { RunContext } from "../../base/progress.js";
import type { ImageFolderContents } from "../../eval/image-folder.js";
import type { FolderScores } from "../../eval/score-folder.js";
import type { Device } from "../../torch/index.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { addConfigOptions, collect, configFromOptions, untrained, type ConfigOptions } from "../options.js";
import { makeFolderOf } from "../output-paths.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";

interface ScoreOptions extends ConfigOptions, OutputOptions {
  readonly rewards: readonly string[];
  readonly prompts?: string;
  readonly out?: string;
}

export function addScoreCommand(program: Command): void {
  addOutputOptions(addConfigOptions(program.command("score <images>")))
    .description("Score a folder of images with rewards, to check them before a run (docs/rewards.md).")
    .option(
      "--rewards <value>",
      "what --set rewards= takes: a name, the path of a module, or a JSON list; repeatable",
      collect,
      [],
    )
    .option(
      "--prompts <file>",
      "JSON Lines with file_name and prompt; default: metadata.jsonl in the folder, else the names of the images",
    )
    .option("--out <file>", "also write the scores of every image as JSON")
    .addHelpText(
      "after",
      example(
        "b2 score images --rewards brightness",
        "b2 score images --preset sd --rewards clip-score --rewards ./mine.js --out scores.json",
        `b2 score photos --prompts prompts.jsonl --rewards '[{ "name": "jpeg-compressibility", "quality": 80 }]'`,
      ),
    )
    .action(async (folder: string, options: ScoreOptions) => {
      if (options.quiet === true && options.json !== true && options.out === undefined) {
        throw new InputError("Expected --out or --json with --quiet, which prints no table, but received neither");
      }
      const config = await configFromOptions(await withRewards(options), { last: untrained });
      const output = new Output("score", options);
      await interruptible("", async (signal) => {
        const context = { progress: output.progress(), signal };
        const { openDevice } = await import("../../b2/policy/device.js");
        const { readImageFolder } = await import("../../eval/image-folder.js");
        const found = readImageFolder(folder, options.prompts);
        await checkRewards(config, found);
        const device = openDevice(config);
        if (options.out !== undefined) makeFolderOf(options.out);
        output.started({ folder, images: found.images.length });
        if (options.preset.length === 0) await warnOfClip(config, folder, context);
        tellMissing(found, folder, context);
        const scores = await score(config, device, folder, found, context);
        await tell(output, options, { folder, promptsFrom: found.prompts ?? "names", device }, config, scores);
      });
    });
}

/** The options with --rewards as the first of --set, so that the others can change its items. */
async function withRewards(options: ScoreOptions): Promise<ScoreOptions> {
  const { rewards, preset, config, set } = options;
  if (rewards.length === 0) {
    if (preset.length > 0 || config.length > 0 || set.some((one) => one.startsWith("rewards"))) return options;
    throw new InputError("Expected --rewards, or --preset, --config or --set with rewards, but received none of them");
  }
  const { parseAssignments } = await import("../../b2/config/resolve.js");
  const named = rewards.flatMap((value) => parseAssignments([`rewards=${value}`])["rewards"]);
  return { ...options, set: [`rewards=${JSON.stringify(named)}`, ...set] };
}

/** Checks that the rewards have what they need, and can score the prompts. */
async function checkRewards(config: Config, { images }: ImageFolderContents): Promise<void> {
  const { checkRewardsOf } = await import("../../b2/reward-problems.js");
  const metadata = new Map(images.map((image) => [image.prompt, image.metadata]));
  checkRewardsOf(config, { training: [...metadata.keys()], metadata });
}

/** The embedded model's CLIP is the default, and knows no other images. */
async function warnOfClip(config: Config, folder: string, { progress }: RunContext): Promise<void> {
  const { warnOfToyClip } = await import("../../b2/models.js");
  warnOfToyClip({ ...config, model: { ...config.model, path: folder } }, progress);
}

function tellMissing({ missing, prompts }: ImageFolderContents, folder: string, { progress }: RunContext): void {
  if (missing.length === 0) return;
  progress.log(`${prompts} names images that are not in ${folder}: ${missing.length}, the first is ${missing[0]}`);
}

/** Checks the images, loads the rewards, and asks them. */
async function score(
  config: Config,
  device: Device,
  folder: string,
  { images }: ImageFolderContents,
  context: RunContext,
): Promise<FolderScores> {
  const { fetchScoringModels } = await import("../../b2/models.js");
  const { checkImages, scoreFolder } = await import("../../eval/score-folder.js");
  const { resolveModel } = await import("../../hub/index.js");
  const { RewardResources, RewardSet } = await import("../../rewards/index.js");
  const checked = await checkImages(folder, images, context);
  await fetchScoringModels(config, { rewards: true }, context);
  const resources = new RewardResources(device, resolveModel);
  let rewards: Awaited<ReturnType<typeof RewardSet.open>> | undefined;
  try {
    const opened = (rewards = await RewardSet.open(config.rewards, resources));
    const batches = { device, batchSize: config.sample.decodeBatchSize };
    return await resources.using(() => scoreFolder(opened, folder, checked, batches, context));
  } finally {
    rewards?.dispose();
    resources.dispose();
  }
}

/** Prints the tables, and writes --out. */
async function tell(
  output: Output,
  { out }: ScoreOptions,
  details: Readonly<Record<string, unknown>>,
  config: Config,
  scores: FolderScores,
): Promise<void> {
  const { summarisePrompts, summariseRewards } = await import("../../eval/score-summary.js");
  const { scoreTables } = await import("../score-table.js");
  const rewards = summariseRewards(scores);
  output.print(scoreTables(scores));
  if (out !== undefined) {
    const prompts = summarisePrompts(scores.images);
    writeJson(out, { ...details, config: config.rewards, rewards, prompts, images: scores.images });
  }
  output.finished(out === undefined ? [] : [out], { rewards });
}
