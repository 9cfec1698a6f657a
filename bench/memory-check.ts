/**
 * The memory that is estimated for the passes of Stable Diffusion 1.4 (`b2 run --dry-run`), beside what they take on this
 * processor: random weights, one image, float32.
 *
 *     npm run build && node dist/bench/memory-check.js [--pixels 256] [--work forward,lora,checkpointed,decode]
 *
 * It needs 4 GB of main memory and what the passes take: 3 GB at 256 pixels. `full` trains all weights, with
 * checkpointing, and needs 4 GB more.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { writeJson } from "../src/base/files.js";
import { randomStableDiffusion14 } from "../src/doctor/index.js";
import { LoraAdapter } from "../src/lora/index.js";
import { modelFamilies, type PassMemory, type PassSetting } from "../src/pipeline/index.js";
import {
  Generator,
  hasOperator,
  inference,
  nativeBytes,
  peakNativeBytes,
  randn,
  tidy,
  torchVersion,
} from "../src/torch/index.js";

const { values } = parseArgs({
  options: {
    pixels: { type: "string", default: "256" },
    work: { type: "string", default: "forward,lora,checkpointed,decode" },
  },
});
const pixels = Number(values.pixels);
const size = { height: pixels, width: pixels };
const RANK = 4;

const model = randomStableDiffusion14({ dtype: "float32", device: "cpu" });
const folder = mkdtempSync(join(tmpdir(), "b2-memory-"));
writeJson(join(folder, "unet/config.json"), model.unet.config);
writeJson(join(folder, "vae/config.json"), model.vae.config);
const lora = { rank: RANK, targets: model.loraTargets };

function estimated(options: Partial<PassSetting>): PassMemory {
  const usual = { dtype: "float32", computeDtype: "float32", device: "cpu", tiling: false } as const;
  const fusedAttention = hasOperator("aten::scaled_dot_product_attention");
  const setting = { ...usual, ...size, fusedAttention, trains: lora, gradientCheckpointing: false, ...options };
  return modelFamilies.get("stable-diffusion").passMemory!(folder, setting, {})!;
}

const generator = new Generator(0);
const latents = randn([1, ...model.latentShape(size)], { generator });
const [positive, negative] = [model.encodePrompts(["a cat riding a bike"]), model.encodePrompts([""])];
const guidance = { guidanceScale: 5, negative };
const backward = (): void =>
  tidy(() => model.predict(latents, 500, model.condition(positive, guidance)).square().mean().backward());
const parameters = () => model.unet.parameters().values();

/** Runs a pass once, then measures it, with the gradients of parameters in memory already. */
function measured(work: () => void): number {
  work();
  const before = nativeBytes();
  return peakNativeBytes(work) - before;
}

function withLora(work: () => void, gradientCheckpointing = false): void {
  model.unet.gradientCheckpointing = gradientCheckpointing;
  const adapter = LoraAdapter.inject(model.unet, { rank: RANK, generator });
  work();
  adapter.dispose();
}

const works: Readonly<Record<string, () => readonly [estimated: number, measured: number]>> = {
  forward: () => {
    let bytes = 0;
    withLora(() => {
      bytes = measured(() => {
        const conditioning = model.prepare(positive, guidance);
        inference(() => void model.predict(latents, 500, conditioning));
        conditioning.dispose();
      });
    });
    return [estimated({}).forward(2), bytes];
  },
  lora: () => {
    let bytes = 0;
    withLora(() => (bytes = measured(backward)));
    return [estimated({}).training(2), bytes];
  },
  checkpointed: () => {
    let bytes = 0;
    withLora(() => (bytes = measured(backward)), true);
    return [estimated({ gradientCheckpointing: true }).training(2), bytes];
  },
  full: () => {
    model.unet.gradientCheckpointing = true;
    for (const parameter of parameters()) parameter.requiresGrad_();
    const bytes = measured(backward);
    for (const parameter of parameters()) {
      parameter.grad = null;
      parameter.requiresGrad_(false);
    }
    return [estimated({ trains: "all", gradientCheckpointing: true }).training(2), bytes];
  },
  decode: () => [estimated({}).decoding(1), measured(() => inference(() => void model.decode(latents)))],
};

const megabytes = (bytes: number): string => `${Math.round(bytes / 1e6).toLocaleString("en-US")} MB`;
console.log(`Stable Diffusion 1.4, float32, ${pixels}x${pixels}, guided, libtorch ${torchVersion()}\n`);
console.log("| pass | estimated | measured | estimated / measured |");
console.log("| --- | --- | --- | --- |");
for (const name of values.work.split(",")) {
  const [paper, real] = works[name]!();
  console.log(`| ${name} | ${megabytes(paper)} | ${megabytes(real)} | ${(paper / real).toFixed(3)} |`);
}
rmSync(folder, { recursive: true });
