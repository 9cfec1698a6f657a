/**
 * AdamW with moments of 32 and of 8 bits, on parameters of the size of Stable Diffusion 1.4's UNet: bytes of the
 * moments, seconds of a step, and what a step needs beside parameters, gradients and moments.
 *
 *     npm run build && node dist/bench/optimizer.js [--rounds 2] [--model sd14|sdxl]
 *
 * It takes 16 bytes of main memory a parameter: 14 GB for sd14.
 */
import { parseArgs } from "node:util";
import { UNet2DConditionModel } from "../src/models/index.js";
import { AdamW, AdamW8bit } from "../src/optim/index.js";
import { Generator, nativeBytes, numThreads, peakNativeBytes, randn, torchVersion } from "../src/torch/index.js";
import { unetConfigs } from "./full-size-models.js";

const { values } = parseArgs({
  options: { rounds: { type: "string", default: "2" }, model: { type: "string", default: "sd14" } },
});

const generator = new Generator(0);
const unet = UNet2DConditionModel.fromConfig(unetConfigs[values.model as keyof typeof unetConfigs], { generator });
const parameters = unet.parameters();
for (const parameter of parameters.values()) {
  parameter.requiresGrad_();
  parameter.grad = randn(parameter.shape, { generator }).mul_(1e-3);
}
const gigabytes = (bytes: number): string => `${(bytes / 1e9).toFixed(2)} GB`;
const count = [...parameters.values()].reduce((sum, { numel }) => sum + numel, 0);
console.log(`${(count / 1e6).toFixed(0)} M parameters, libtorch ${torchVersion()}, ${numThreads()} threads\n`);
console.log("| moments | bytes | of a parameter | seconds a step | needed by a step |");
console.log("| --- | --- | --- | --- | --- |");
for (const [bits, Optimizer] of [
  [32, AdamW],
  [8, AdamW8bit],
] as const) {
  const before = nativeBytes();
  const optimizer = new Optimizer(parameters, { lr: 1e-6 });
  optimizer.step();
  const held = nativeBytes() - before;
  const seconds: number[] = [];
  let needed = 0;
  for (let round = 0; round < Number(values.rounds); round++) {
    const start = performance.now();
    needed = peakNativeBytes(() => optimizer.step()) - before - held;
    seconds.push((performance.now() - start) / 1000);
  }
  const cells = [`${bits} bits`, gigabytes(held), (held / count).toFixed(2), Math.min(...seconds).toFixed(1)];
  console.log(`| ${cells.join(" | ")} | ${gigabytes(needed)} |`);
  optimizer.dispose();
}
