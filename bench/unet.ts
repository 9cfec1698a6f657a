/**
 * Time of the UNet beside the same UNet in PyTorch (bench/unet_torch.py), in one run: the two take turns, so that a
 * busy machine slows both, and the fastest turn of each counts.
 *
 *     LIBTORCH=<folder of python's torch> node dist/bench/unet.js --python python3 [--batch 128] [--size 8]
 *       [--channels 64,128] [--layers 1] [--rounds 5] [--threads 2] [--clock cpu]
 *
 * On a shared machine, `--threads 1 --clock cpu` compares the CPU time of the two.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { LoraAdapter } from "../src/lora/index.js";
import { UNet2DConditionModel } from "../src/models/index.js";
import { saveSafetensors } from "../src/safetensors/index.js";
import {
  Generator,
  noGrad,
  numThreads,
  randint,
  randn,
  setNumThreads,
  tidy,
  torchVersion,
} from "../src/torch/index.js";
import { LineProcess, pytorchEnvironment } from "./line-process.js";
import { parseClock, secondsBy } from "./machine.js";

const modes = ["forward", "encoded", "lora", "train"] as const;
type Mode = (typeof modes)[number];

const described: Record<Mode, string> = {
  forward: "forward",
  encoded: "forward, text encoded once",
  lora: "LoRA forward + backward",
  train: "forward + backward",
};

const { values } = parseArgs({
  options: {
    python: { type: "string", default: "python3" },
    batch: { type: "string", default: "128" },
    size: { type: "string", default: "8" },
    channels: { type: "string", default: "64,128" },
    layers: { type: "string", default: "1" },
    rounds: { type: "string", default: "5" },
    clock: { type: "string", default: "wall" },
    threads: { type: "string", default: String(numThreads()) },
  },
});

const batch = Number(values.batch);
const channels = values.channels.split(",").map(Number);
const textFeatures = 128;
const clock = parseClock(values.clock);
setNumThreads(Number(values.threads));

const generator = new Generator(0);
const unet = UNet2DConditionModel.fromConfig(
  {
    block_out_channels: channels,
    layers_per_block: Number(values.layers),
    down_block_types: channels.map(() => "CrossAttnDownBlock2D" as const),
    up_block_types: channels.map(() => "CrossAttnUpBlock2D" as const),
    cross_attention_dim: textFeatures,
    attention_head_dim: 4,
    sample_size: Number(values.size),
  },
  { generator },
);
const sample = randn([batch, 4, Number(values.size), Number(values.size)], { generator }).contiguous({
  memoryFormat: "channelsLast",
});
const timestep = randint(0, 1000, [batch], { generator });
const text = randn([batch, 77, textFeatures], { generator });
const output = noGrad(() => unet.forward(sample, timestep, text));
const encoded = noGrad(() => unet.encodeText(text));

/** Seconds of some passes on this engine. */
function ours(mode: Mode, passes: number): number {
  const lora = mode === "lora" ? LoraAdapter.inject(unet, { generator }) : undefined;
  unet.requiresGrad_(mode === "train");
  const start = secondsBy(clock);
  for (let i = 0; i < passes; i++) {
    tidy(() => {
      if (mode === "forward" || mode === "encoded") {
        noGrad(() => unet.forward(sample, timestep, mode === "encoded" ? encoded : text));
        return;
      }
      unet.forward(sample, timestep, text).square().mean().backward();
      for (const parameter of (lora ?? { parameters: unet.parameters() }).parameters.values()) parameter.grad = null;
    });
  }
  const seconds = secondsBy(clock) - start;
  lora?.dispose();
  return seconds;
}

const folder = mkdtempSync(join(tmpdir(), "bench-unet-"));
try {
  unet.savePretrained(folder);
  saveSafetensors(join(folder, "io.safetensors"), { sample, timestep, text, output });
  const script = fileURLToPath(new URL("../../bench/unet_torch.py", import.meta.url));
  const python = new LineProcess(values.python, [script, folder, values.threads, clock], { env: pytorchEnvironment() });
  const theirs = async (mode: Mode, passes: number): Promise<number> =>
    (await python.answer(`${mode === "encoded" ? "forward" : mode} ${passes}`)) as number;

  const { version, error } = (await python.answer()) as { version: string; error: number };
  console.log(
    `UNet ${channels.join("/")}, ${values.layers} layers, batch ${batch} of ${values.size}x${values.size}, ` +
      `${unet.parameterCount()} parameters, ${numThreads()} threads; libtorch ${torchVersion()}, PyTorch ${version}; ` +
      `outputs differ by ${error.toExponential(1)}`,
  );
  for (const mode of modes) {
    const best = { ours: Infinity, theirs: Infinity };
    ours(mode, 1);
    const passes = Math.max(1, Math.round(0.5 / ours(mode, 1)));
    await theirs(mode, 1);
    for (let round = 0; round < Number(values.rounds); round++) {
      best.ours = Math.min(best.ours, ours(mode, passes) / passes);
      best.theirs = Math.min(best.theirs, (await theirs(mode, passes)) / passes);
    }
    const [a, b] = [best.ours, best.theirs].map((seconds) => (seconds * 1000).toFixed(1));
    const ratio = (best.ours / best.theirs).toFixed(2);
    console.log(`${described[mode].padEnd(28)} ours ${a} ms, PyTorch ${b} ms, ratio ${ratio}`);
  }
  python.end();
} finally {
  rmSync(folder, { recursive: true });
}
