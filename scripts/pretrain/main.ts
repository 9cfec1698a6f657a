/**
 * `npm run pretrain`: trains the embedded world's models from scratch. See docs/world.md. When it was cut off, the same
 * command skips the steps that are finished and goes on from the checkpoint of the one that is not.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Command, InvalidArgumentError } from "commander";
import { deviceCount, setNumThreads, type Device } from "../../src/torch/index.js";
import { Renderer } from "../../src/world/index.js";
import { pretrainClassifier } from "./classifier.js";
import { pretrainClip } from "./clip.js";
import { pretrainDenoiser } from "./denoiser.js";
import { pretrainFlow } from "./flow.js";
import { measure, measureFlow } from "./measure.js";
import { STEPS, type StepName } from "./recipe.js";
import { pretrainDecoder, pretrainVae } from "./vae.js";
import { writeJson, type Workplace } from "./workplace.js";

const RUN: Record<StepName, (workplace: Workplace) => Promise<void>> = {
  vae: pretrainVae,
  decoder: pretrainDecoder,
  denoiser: pretrainDenoiser,
  flow: pretrainFlow,
  clip: pretrainClip,
  classifier: pretrainClassifier,
  measure,
  "measure-flow": measureFlow,
};

function steps(value: string): StepName[] {
  return value.split(",").map((name) => {
    const step = STEPS.find((known) => known === name.trim());
    if (!step) throw new InvalidArgumentError(`Expected steps out of ${STEPS.join(", ")} but received "${name}".`);
    return step;
  });
}

function number(value: string): number {
  const parsed = Number(value);
  if (!(parsed > 0)) throw new InvalidArgumentError(`Expected a number above 0 but received "${value}".`);
  return parsed;
}

function device(value: string): Device {
  const [kind, index = "0"] = value.split(":");
  const count = kind === "cuda" || kind === "mps" ? deviceCount(kind) : Number(kind === "cpu");
  if (Number(index) < count) return value as Device;
  throw new InvalidArgumentError(`Expected cpu, or a cuda or mps that is on this machine, but received "${value}".`);
}

const program = new Command("pretrain")
  .description("Trains the embedded world's models from scratch: VAE, UNet, flow transformer, CLIP, classifier.")
  .option("--only <steps>", `some of ${STEPS.join(",")}, also when they are finished already`, steps)
  .option("--out <folder>", "folder for the finished models", "models")
  .option("--work <folder>", "folder for checkpoints, from which an interrupted run resumes", ".cache/pretrain")
  .option("--seed <number>", "seed of all random numbers", number, 1)
  .option("--threads <number>", "threads of libtorch", number, availableParallelism())
  .option("--device <device>", "where the flow model learns: cpu, cuda, mps", device, "cpu")
  .option("--scale <number>", "factor of the length of every training, for trials", number, 1)
  .addHelpText("after", "\nExample: npm run pretrain -- --only clip,classifier --out /tmp/models");

const options = program.parse().opts<{
  only?: StepName[];
  out: string;
  work: string;
  seed: number;
  threads: number;
  device: Device;
  scale: number;
}>();
setNumThreads(options.threads);
mkdirSync(options.work, { recursive: true });
const workplace: Workplace = {
  modelsFolder: options.out,
  workFolder: options.work,
  seed: options.seed,
  scale: options.scale,
  device: options.device,
  renderer: new Renderer(),
};

/** The finished steps, and what they were run with. */
const DONE_FILE = join(options.work, "done.json");
const SETTINGS = JSON.stringify({ out: options.out, seed: options.seed, scale: options.scale });
const done = existsSync(DONE_FILE) ? (JSON.parse(readFileSync(DONE_FILE, "utf8")) as Record<string, string>) : {};
for (const step of STEPS) {
  if (options.only !== undefined && !options.only.includes(step)) continue;
  if (options.only === undefined && done[step] === SETTINGS) {
    console.log(`${step}: finished before; --only ${step} trains it again`);
    continue;
  }
  await RUN[step](workplace);
  done[step] = SETTINGS;
  writeJson(DONE_FILE, done);
}
