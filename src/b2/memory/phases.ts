/**
 * The peak memory of a run's phases on the model's device: weights (weights.ts), and what the passes take, worked out from
 * the model's configs. Nothing is loaded.
 */
import { optionsOf } from "../../base/registry.js";
import { findModel } from "../../hub/index.js";
import { stepBytes } from "../../optim/index.js";
import { familyOf, type PassMemory, type PassSetting } from "../../pipeline/index.js";
import type { Device, DType } from "../../torch/index.js";
import { intervalOf, type Config } from "../config/schema.js";
import { needsOf, objectives } from "../objectives/index.js";
import { trainedSteps } from "../rollout/schedule.js";
import { imagesOf, levelsOf } from "../rollout/tree.js";
import { trainedSizes, weightMemory, type MemoryEstimate } from "./weights.js";

const FLOAT = 4;

/** Bytes of a phase at its peak. */
export interface PhaseMemory {
  readonly weights: number;
  readonly passes: number;
}

/** What a run takes at its peaks. */
export interface RunMemory {
  readonly weights: MemoryEstimate;
  /** Of the model's device; undefined where the model's configs are not known. Scoring is without what rewards compute. */
  readonly phases: Readonly<Record<"sampling" | "decoding" | "training", PhaseMemory>> | undefined;
  /** Of a stage's samples in main memory, whatever the device. */
  readonly trajectories: number | undefined;
}

/** Estimates a run's memory before it begins. */
export function runMemory(config: Config): RunMemory {
  const weights = weightMemory(config);
  const own = weights.devices.get(config.model.device);
  const passes = passMemoryOf(config);
  if (passes === undefined || own === undefined) return { weights, phases: undefined, trajectories: undefined };
  const { sample, train, model, objective } = config;
  const kind = objectives.get(objective.name);
  const family = familyOf(findModel(model.path, model)!);
  const rows = train.microBatch * (kind.itemSize ?? 1);
  const guided = family.passes(needsOf(objective).guided ? sample.guidanceScale : 1);
  const samples = sample.rootsPerStage * imagesOf(config.branch);
  const batch = Math.min(sample.batchSize, samples);
  const trained = trainedSizes(config)!;
  // Gradients are there in training alone.
  const idle = own.scoring - FLOAT * trained.reduce((sum, size) => sum + size, 0);
  // The optimiser's step comes when the activations are gone.
  const update = Math.max(passes.training(rows * guided), stepBytes(trained, train));
  return {
    weights,
    phases: {
      sampling: { weights: idle, passes: passes.forward(batch * family.passes(sample.guidanceScale)) },
      decoding: { weights: idle, passes: passes.decoding(Math.min(sample.decodeBatchSize, samples)) },
      training: { weights: own.training, passes: update },
    },
    trajectories: passes.latents * statesOf(config) * FLOAT,
  };
}

/** undefined where the model or its configs are not on this machine. */
function passMemoryOf({ model, train, lora }: Config): PassMemory | undefined {
  const found = findModel(model.path, model);
  if (found === undefined) return undefined;
  const family = familyOf(found);
  const { dtype, device, tiling, height, width } = model;
  const setting: PassSetting = {
    dtype,
    computeDtype: computeDtypeOf(model),
    device: device as Device,
    tiling,
    // Builds for NVIDIA's cards are of libtorch 2.x.
    fusedAttention: device.startsWith("cuda"),
    ...(height !== null && { height }),
    ...(width !== null && { width }),
    trains:
      train.parameters === "full"
        ? "all"
        : { rank: lora.rank, targets: lora.targetModules ?? family.loraTargets ?? [] },
    gradientCheckpointing: train.gradientCheckpointing,
  };
  return family.passMemory?.(found, setting, optionsOf(family, { name: family.name, ...model.options }));
}

/** As policy/device.ts has it, without asking libtorch: a CPU that computes in half precision takes less. */
const computeDtypeOf = ({ dtype, computeDtype, device }: Config["model"]): DType =>
  computeDtype ?? (device === "cpu" ? "float32" : dtype);

/** Latents that a stage keeps, over all samples: those of the branches, and those that are selected from them. */
function statesOf(config: Config): number {
  const { sample, branch, select, interval, stages, objective, replay } = config;
  const ofImages = objectives.get(objective.name).learnsFrom === "final-latents";
  const steps = trainedSteps(stages - 1, intervalOf(config));
  const roots = sample.rootsPerStage;
  const kept = ofImages ? 1 : steps + 1;
  const trained = ofImages ? 1 : steps - interval.skipLast + 1;
  const selected = levelsOf(branch, steps).reduce((sum, { count, edges, images }) => {
    const nodes = select.mode === "all" ? edges : (edges / count) * Math.min(2, count);
    return sum + nodes * (ofImages ? images : 1);
  }, 0);
  const replayed = 1 + (replay.stages > 0 ? replay.share : 0);
  return roots * (imagesOf(branch) * kept + selected * trained * replayed);
}
