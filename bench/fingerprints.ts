/**
 * Whether two versions compute the same bits: small trainings, and the SHA-256 of what each has learnt.
 *
 *     npm run build && node dist/bench/fingerprints.js [--b2 bin/b2.js] [--folder scratch] [--only word]
 *
 * `--b2` names the command line of any checkout from 0.1.0 on; the configs are in the form of 0.1.0, which later versions
 * read. Each training is processes of their own with one thread, since how work is split changes how sums round. A line
 * is a name and the hash of the weights after the last stage; the last line hashes the lines. They compare between runs
 * with the same header: another libtorch or CPU rounds otherwise. `--only` runs the trainings whose name has the word.
 * `--folder` keeps the runs, to find the first file in which two versions differ: samples.jsonl for sampling and rewards,
 * selected.safetensors for log-probs, updates.jsonl for the update.
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import {
  configArguments,
  describeB2,
  embedded,
  layered,
  runB2,
  stageMetrics,
  trainingOnly,
  type FormerConfig,
} from "./b2-process.js";
import { narrow } from "./narrow.js";

const stages = 3;

/** How a training comes to its last stage. */
type Way = "run" | "phases" | "interrupted";

interface Training {
  readonly name: string;
  readonly config: FormerConfig;
  readonly way?: Way;
}

/** The embedded model with few roots. */
const small = (name: string, config: FormerConfig = {}, way: Way = "run"): Training => ({
  name,
  config: layered(embedded, { sample: { rootsPerStage: 12 }, train: { samplesPerUpdate: 5 } }, config),
  way,
});

const trainings: readonly Training[] = [
  small("embedded"),
  small("random-prompts", { prompts: { order: "random" } }),
  // Few prompts, so that each has several rewards to be compared with.
  small("ddpo", {
    prompts: { train: ["a cat riding a bike", "blue banana", "star on house"] },
    branch: { count: 1 },
    select: { mode: "all" },
    interval: { first: 10, last: 10 },
  }),
  small("dpo", { train: { objective: "dpo", oldLogProbs: "recomputed" } }),
  small("guidance", { sample: { rootsPerStage: 6, guidanceScale: 5 } }),
  small("full", { reward: { name: "brightness" }, train: { parameters: "unet", learningRate: 1e-5 } }),
  small("branch-centred", {
    advantage: { mode: "branch-centred" },
    train: { timestepFraction: 0.5, gradientCheckpointing: true },
  }),
  small("jpeg", { reward: { name: "jpeg-compressibility" } }),
  small("phases", {}, "phases"),
  small("interrupted", {}, "interrupted"),
  { name: "sd2", config: narrow("sd2") },
  { name: "sdxl", config: narrow("sdxl") },
  {
    name: "sdxl-bfloat16",
    config: layered(narrow("sdxl"), { model: { dtype: "bfloat16", computeDtype: "bfloat16" } }),
  },
];

/** Trains in a folder that must be new. */
async function train(b2: string, folder: string, { config, way = "run" }: Training): Promise<void> {
  if (existsSync(folder)) throw new Error(`Expected a new folder for a run but received ${folder}`);
  const given = configArguments(folder, layered(trainingOnly, { stages }, config));
  const cwd = resolve(folder, "..");
  switch (way) {
    case "run":
      await runB2(b2, ["run", folder, ...given], { cwd });
      return;
    case "phases":
      for (let stage = 0; stage < stages; stage++) {
        for (const phase of ["sample", "select", "train"]) await runB2(b2, [phase, folder, ...given], { cwd });
      }
      return;
    case "interrupted":
      await runB2(b2, ["run", folder, ...given], {
        cwd,
        // "stage 1/4" in versions before 0.3.0
        interruptAt: new RegExp(`stage (1|0 \\(1)/${stages}\\)? {2}reward`),
        code: 130,
      });
      await runB2(b2, ["run", folder, ...given], { cwd });
      return;
    default:
      way satisfies never;
  }
}

const sha256 = (content: string | Uint8Array): string => createHash("sha256").update(content).digest("hex");

/** The weights after the last stage: of the LoRA, or of all of the denoiser in a folder that versions name otherwise. */
function fingerprint(folder: string): string {
  for (let stage = 0; stage < stages; stage++) {
    // Weights that nothing has trained would be the same in any version.
    const { updates = 0 } = stageMetrics(folder, stage);
    if (updates < 1) throw new Error(`Expected updates in stage ${stage} of ${folder} but received ${updates}`);
  }
  const last = join(folder, "stages", String(stages - 1).padStart(4, "0"));
  const files = readdirSync(last, { recursive: true, encoding: "utf8" }).filter((file) =>
    /(^|[/\\])(pytorch_lora_weights|diffusion_pytorch_model)\.safetensors$/.test(file),
  );
  if (files.length !== 1) throw new Error(`Expected one file of weights in ${last} but received ${files.length}`);
  return sha256(readFileSync(join(last, files[0]!)));
}

const { values } = parseArgs({
  options: {
    b2: { type: "string", default: resolve(import.meta.dirname, "../../bin/b2.js") },
    folder: { type: "string" },
    only: { type: "string", default: "" },
  },
});

const scratch = resolve(values.folder ?? mkdtempSync(join(tmpdir(), "b2-fingerprints-")));
mkdirSync(scratch, { recursive: true });
try {
  console.log(describeB2(values.b2));
  const lines: string[] = [];
  for (const training of trainings.filter(({ name }) => name.includes(values.only))) {
    const folder = join(scratch, training.name);
    await train(values.b2, folder, training);
    const line = `${training.name.padEnd(16)} ${fingerprint(folder)}`;
    lines.push(line);
    console.log(line);
  }
  console.log(`${"all".padEnd(16)} ${sha256(lines.map((line) => `${line}\n`).join(""))}`);
} finally {
  if (values.folder === undefined) rmSync(scratch, { recursive: true });
}
