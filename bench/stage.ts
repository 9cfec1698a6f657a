/**
 * One stage of training, timed: seconds of sampling, scoring and training, images and pairs a second, and the share of
 * the machine's matmul peak that the UNet's arithmetic comes to.
 *
 *     npm run build && node dist/bench/stage.js [--preset demo] [--set key=value ...]
 *
 * The first stage warms up and makes Adam's moments; the second is timed. The peak is that of a 1024 x 1024 matmul in
 * this very process. The UNet's floating-point operations are counted from its layers at the batch's shapes: two for
 * each multiply-add of convolutions and linear layers (attention's own products are left out). A training pair counts
 * as two forward passes: its own, and the gradient of the activations; frozen weights get none.
 */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import {
  demo,
  InputError,
  parseAssignments,
  type Policy,
  type PresetName,
  presets,
  resolveConfig,
  Trainer,
} from "../src/b2/index.js";
import { Conv2d, Linear } from "../src/nn/index.js";
import { matmul, noGrad, numThreads, randn, type Tensor, tidy, torchVersion } from "../src/torch/index.js";

const { values } = parseArgs({
  options: { preset: { type: "string" }, set: { type: "string", multiple: true } },
});

/** GFLOP/s of a large matmul, the best of several. */
function matmulPeak(): number {
  const n = 1024;
  return tidy(() =>
    noGrad(() => {
      const [a, b] = [randn([n, n]), randn([n, n])];
      let best = Infinity;
      for (let i = 0; i < 20; i++) {
        const start = performance.now();
        tidy(() => matmul(a, b));
        best = Math.min(best, performance.now() - start);
      }
      return (2 * n ** 3) / (best * 1e6);
    }),
  );
}

/** Floating-point operations of a prediction for one latent; two passes where it is guided. */
function forwardFlops(policy: Policy): number {
  let flops = 0;
  const restore: (() => void)[] = [];
  for (const layer of policy.pipeline.unet.modules().values()) {
    if (!(layer instanceof Conv2d || layer instanceof Linear)) continue;
    const perOutput = 2 * layer.weight.shape.slice(1).reduce((product, n) => product * n, 1);
    const forward: (x: Tensor) => Tensor = layer.forward.bind(layer);
    layer.forward = (x: Tensor): Tensor => {
      const y = forward(x);
      flops += perOutput * y.numel;
      return y;
    };
    restore.push(() => Reflect.deleteProperty(layer, "forward"));
  }
  tidy(() =>
    noGrad(() => {
      const x = randn([1, ...policy.latentShape]);
      policy.transition(x, policy.timesteps(1)[0]!, policy.condition(["a"]), { prevSample: x });
    }),
  );
  for (const undo of restore) undo();
  return flops;
}

async function main(): Promise<void> {
  const preset = values.preset ?? "demo";
  if (!Object.hasOwn(presets, preset)) throw new InputError(`Expected a preset but received ${preset}`);
  const base = preset === "demo" ? demo() : presets[preset as PresetName]();
  const config = resolveConfig(base, { stages: 2, eval: { enabled: false } }, parseAssignments(values.set ?? []));
  const trainer = await Trainer.open(join(mkdtempSync(join(tmpdir(), "b2-bench-")), "run"), config);
  await trainer.runStage(0);
  const metrics = await trainer.runStage(1);
  const peak = matmulPeak();

  const flops = forwardFlops(trainer.policy);
  const steps =
    config.sample.rootsPerStage * (config.sample.steps - metrics["trainedSteps"]!) +
    metrics["images"]! * metrics["trainedSteps"]!;
  const sampling = (flops * steps) / metrics["secondsSample"]! / 1e9;
  const training = (2 * flops * metrics["pairs"]!) / metrics["secondsTrain"]! / 1e9;
  const row = (name: string, text: string): void => console.log(`${name.padEnd(22)} ${text}`);
  const of = (rate: number): string => `${rate.toFixed(1)} GFLOP/s, ${((100 * rate) / peak).toFixed(0)}% of peak`;
  row("libtorch", `${torchVersion()}, ${numThreads()} threads`);
  row("model", `${config.model.path}, ${config.model.dtype}, ${(flops / 1e6).toFixed(0)} MFLOP a prediction`);
  row("matmul peak", `${peak.toFixed(1)} GFLOP/s`);
  row(
    "sampling",
    `${metrics["secondsSample"]!.toFixed(2)} s, ${(steps / metrics["secondsSample"]!).toFixed(0)} steps/s, ${of(sampling)}`,
  );
  row("scoring", `${metrics["secondsScore"]!.toFixed(2)} s`);
  row(
    "training",
    `${metrics["secondsTrain"]!.toFixed(2)} s, ${metrics["pairsPerSecond"]?.toFixed(0) ?? "-"} pairs/s, ${of(training)}`,
  );
  row("images", `${metrics["images"]}, ${metrics["imagesPerSecond"]!.toFixed(1)}/s sampled and scored`);
  row("pairs", `${metrics["pairs"]}, ${metrics["updates"]} updates`);
  row("memory", `${metrics["residentMegabytes"]!.toFixed(0)} MB resident, ${metrics["liveTensors"]} live tensors`);
}

await main();
