/** `b2 probe`: how much of the reward the last steps of a trajectory still decide, and the interval that follows. */
import { existsSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { InvalidArgumentError, type Command } from "commander";
import type { Config } from "../../b2/config/schema.js";
import type { InferenceWeights } from "../../b2/policy/policy.js";
import type { ProbedRoot, ProbePlan } from "../../b2/probe/branching.js";
import type { PromptLists } from "../../b2/rollout/prompts.js";
import { InputError } from "../../base/errors.js";
import { readJsonObject, writeFileAtomic, writeJson } from "../../base/files.js";
import type { RunContext } from "../../base/progress.js";
import type { ProbeReport } from "../../eval/probe-report.js";
import type { Device } from "../../torch/index.js";
import { example } from "../help.js";
import { interruptible } from "../interrupt.js";
import { checkPolicy, configFor, loadPolicy, loraOption, parseLora, type LoraOption } from "../lora-option.js";
import { addConfigOptions, expectFewImages, untrained, wholeNumber, type ConfigOptions } from "../options.js";
import { makeOutputFolder } from "../output-paths.js";
import { addOutputOptions, Output, type OutputOptions } from "../output.js";
import { duration } from "../progress.js";
import { printOut } from "../terminal.js";

interface ProbeOptions extends ConfigOptions, LoraOption, OutputOptions {
  readonly splits?: readonly number[] | "all";
  readonly roots: number;
  readonly branches: number;
  readonly out: string;
  readonly dryRun?: true;
}

export function addProbeCommand(program: Command): void {
  addOutputOptions(addConfigOptions(loraOption(program.command("probe"))))
    .description("Measure how much of the reward the last steps still decide, and propose an interval to train.")
    .option(
      "--splits <list>",
      "numbers of last steps to branch, such as 6,10,14, or all (default: ten of them)",
      splitList,
    )
    .option("--roots <number>", "trajectories that are branched, spread over the training prompts", wholeNumber(1), 64)
    .option("--branches <number>", "branches of a root at each split", wholeNumber(2), 4)
    .option("--out <folder>", "folder for probe.json and probe.png", "probe")
    .option("--dry-run", "print what the probe would compute and score, then exit")
    .addHelpText(
      "after",
      example(
        "b2 probe --preset demo",
        "b2 probe --preset sd --set model.path=stable-diffusion-v1-5/stable-diffusion-v1-5 --set prompts.train=prompts.txt --splits 10,20,30",
        "b2 probe --lora runs/demo --roots 128 --out probe-after",
      ),
    )
    .action(async (options: ProbeOptions) => {
      const config = await configFor(options, untrained);
      const { readPromptLists } = await import("../../b2/rollout/prompts.js");
      const { evenSplits, promptsOfRoots } = await import("../../b2/probe/propose.js");
      const { training, metadata } = readPromptLists(config);
      const { steps } = config.sample;
      const plan: ProbePlan = {
        stage: 0,
        prompts: promptsOfRoots(training, options.roots),
        splits: splitsOf(options.splits, steps) ?? evenSplits(steps),
        branches: options.branches,
      };
      expectFewImages(plan.prompts.length * plan.branches * plan.splits.length, "--roots, --branches and --splits");
      if (options.dryRun === true) {
        printOut(await costText(plan, config));
        return;
      }
      const { checkTruth } = await import("../../eval/judges.js");
      checkTruth(config, { training });
      const { checkRewardsOf } = await import("../../b2/reward-problems.js");
      checkRewardsOf(config, { training, metadata });
      const device = await checkPolicy(config, options);
      makeOutputFolder(options.out);
      const output = new Output("probe", options);
      output.started({ model: config.model.path, lora: options.lora, roots: plan.prompts.length, out: options.out });
      output.say(await costText(plan, config));
      const report = await interruptible("The same command goes on with the next roots.", (signal) =>
        probe(plan, config, options, device, { progress: output.progress(), signal, metadata }),
      );
      const { proposalText, shareChart } = await import("../../eval/probe-report.js");
      const { probeTable } = await import("../probe-table.js");
      const files = { json: join(options.out, "probe.json"), picture: join(options.out, "probe.png") };
      writeJson(files.json, report);
      writeFileAtomic(files.picture, shareChart(report));
      rmSync(partialFile(options.out), { force: true });
      const written = Object.values(files);
      output.print(`${probeTable(report)}\n${proposalText(report)}\n\n${written.join("\n")}\n`);
      const { measures, proposal, cost } = report;
      output.finished(written, { measures, proposal, cost });
    });
}

/** Loads the models and probes all roots; those that an interrupted probe has left in the folder are not repeated. */
async function probe(
  plan: ProbePlan,
  config: Config,
  options: ProbeOptions,
  device: Device,
  context: RunContext & Pick<PromptLists, "metadata">,
): Promise<ProbeReport> {
  const [{ fetchModels }, { resolveModel }, { RewardResources, RewardSet }] = [
    await import("../../b2/models.js"),
    await import("../../hub/index.js"),
    await import("../../rewards/index.js"),
  ];
  const { findWeights } = await import("../../b2/policy/weights.js");
  const [{ probeCost, probeRoots }, { allShares }, { proposeInterval }, { openJudges }, { readAlignment }] = [
    await import("../../b2/probe/branching.js"),
    await import("../../b2/probe/shares.js"),
    await import("../../b2/probe/propose.js"),
    await import("../../eval/judges.js"),
    await import("../../eval/read-alignment.js"),
  ];
  const resources = new RewardResources(device, resolveModel);
  await fetchModels(config, { rewards: true }, context);
  const rewards = await RewardSet.open(config.rewards, resources);
  const judges = openJudges({ eval: { ...config.eval, clip: null } }, rewards, resources);
  const policy = await loadPolicy(config, options, context, { prompts: plan.prompts });
  try {
    const weights = await findWeights(options.lora.map(parseLora), context);
    const begun = { plan, config, weights: stampsOf(weights) };
    const { samples, seconds: before } = await partial(options.out, begun);
    const start = performance.now();
    const elapsed = (): number => (performance.now() - start) / 1000;
    let isFirst = true;
    for await (const roots of probeRoots(policy, rewards, plan, config, {
      ...context,
      read: judges.truth && readAlignment(judges.truth),
      from: samples.length,
    })) {
      samples.push(...roots);
      writeJson(partialFile(options.out), { ...begun, samples, seconds: before + elapsed() } satisfies Partial);
      const left = plan.prompts.length - samples.length;
      if (isFirst && left > 0) {
        const about = duration((elapsed() / roots.length) * left);
        context.progress.log(
          `${roots.length} of ${plan.prompts.length} roots took ${duration(elapsed())}; about ${about} left`,
        );
      }
      isFirst = false;
    }
    const measures = allShares(samples, plan.splits);
    return {
      model: config.model.path,
      lora: options.lora,
      seed: config.seed,
      steps: config.sample.steps,
      guidanceScale: config.sample.guidanceScale,
      prompts: new Set(plan.prompts).size,
      roots: plan.prompts.length,
      branches: plan.branches,
      cost: { ...probeCost({ ...plan, roots: plan.prompts.length }), seconds: before + elapsed() },
      measures,
      proposal: proposeInterval(measures["reward"]!.shares),
      samples,
    };
  } finally {
    policy.dispose();
    judges.dispose?.();
    rewards.dispose();
    resources.dispose();
  }
}

/** What a probe will compute, in a line or two. */
async function costText(plan: ProbePlan, config: Config): Promise<string> {
  const { probeCost } = await import("../../b2/probe/branching.js");
  const { passesPerStep } = await import("../../b2/dry-run.js");
  const { steps, images } = probeCost({ ...plan, roots: plan.prompts.length });
  const whole = (count: number): string => count.toLocaleString("en-US");
  const { prompts, splits, branches } = plan;
  return (
    `${prompts.length} roots of ${new Set(prompts).size} prompts, ${branches} branches each from the last ` +
    `${splits.join(", ")} steps:\n${whole(steps * passesPerStep(config))} passes of one image through the denoiser, ` +
    `${whole(images)} images to decode and score\n`
  );
}

/** What an interrupted probe leaves. */
interface Partial {
  readonly plan: ProbePlan;
  readonly config: object;
  readonly weights: readonly unknown[];
  readonly samples: ProbedRoot[];
  readonly seconds: number;
}

const partialFile = (folder: string): string => join(folder, "probe.partial.json");

/** What an interrupted probe with the same plan, config and weights has left; nothing if there is none. */
async function partial(
  folder: string,
  { plan, config, weights }: Omit<Partial, "samples" | "seconds">,
): Promise<Pick<Partial, "samples" | "seconds">> {
  const file = partialFile(folder);
  if (existsSync(file)) {
    const { differences } = await import("../../b2/config/resolve.js");
    const left = readJsonObject(file) as unknown as Partial;
    const deciding = differences(left.config, config).filter(({ affects }) => affects === undefined);
    const isSame = JSON.stringify([left.plan, left.weights]) === JSON.stringify([plan, weights]);
    if (isSame && deciding.length === 0) return left;
  }
  return { samples: [], seconds: 0 };
}

/** The files of the weights and when they were written, so that other weights begin another probe. */
function stampsOf({ loras = [], denoiser }: InferenceWeights): unknown[] {
  const files = [...loras, ...(denoiser === undefined ? [] : [{ file: denoiser, weight: 1 }])];
  return files.map(({ file, weight }) => ({ file, weight, modified: statSync(file).mtimeMs }));
}

/** Parses --splits. */
function splitList(text: string): readonly number[] | "all" {
  if (text === "all") return "all";
  const list = text.split(",").map(Number);
  if (/^\d+(,\d+)*$/.test(text) && list.every((s) => s > 0)) return list;
  throw new InvalidArgumentError(`Expected numbers of steps such as 6,10,14, or all, but received ${text}.`);
}

/** The splits in ascending order, with T, which all others are compared with. @throws InputError for more than T steps */
function splitsOf(given: ProbeOptions["splits"], steps: number): number[] | undefined {
  if (given === undefined) return undefined;
  if (given === "all") return Array.from({ length: steps }, (_, i) => i + 1);
  const most = Math.max(...given);
  if (most > steps) {
    throw new InputError(`Expected at most sample.steps, ${steps}, for --splits but received ${most}`);
  }
  return [...new Set([...given, steps])].sort((a, b) => a - b);
}
