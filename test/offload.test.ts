// Parts of a model that wait in main memory: they come when they are called, and the numbers are the same.
import assert from "node:assert/strict";
import { join } from "node:path";
import { describe, it } from "node:test";
import { weightMemory } from "../src/b2/memory/index.js";
import type { Module } from "../src/nn/index.js";
import { StableDiffusionPipeline } from "../src/pipeline/index.js";
import {
  deviceCount,
  deviceMemory,
  Generator,
  inference,
  liveTensors,
  noGrad,
  randn,
  tidy,
  type Device,
} from "../src/torch/index.js";
import { fixtures } from "./support/folders.js";
import { tinyConfig } from "./support/tiny.js";

/** Embeds, a prediction and an image, twice over; and what `each` sees after every call. */
function outputs(model: StableDiffusionPipeline, each: (call: string) => void = () => undefined): number[][] {
  return tidy(() => {
    const x = randn([2, 4, 8, 8], { generator: new Generator(3) });
    const seen = <T>(call: string, value: T): T => {
      each(call);
      return value;
    };
    return [1, 2].flatMap(() => {
      const embeds = seen("encode", model.encodePrompts(["a cat", "red apple"]));
      const negative = seen("encode", model.encodePrompts([""]));
      const guidance = { guidanceScale: 3, negative };
      const prediction = seen(
        "predict",
        noGrad(() => model.predict(x, 500, model.condition(embeds, guidance))),
      );
      const image = seen(
        "decode",
        inference(() => model.decode(x)),
      );
      const states = Object.values(embeds.states).filter((state) => state !== undefined);
      return [...states, prediction, image].map((value) => value.to({ device: "cpu" }).toArray());
    });
  });
}

function partSizes(path: string): Record<"unet" | "vae" | "textEncoder", number> {
  const model = StableDiffusionPipeline.fromPretrained(path);
  const { unet, vae, textEncoder } = model;
  const sizes = { unet, vae, textEncoder };
  const counts = Object.entries(sizes).map(([name, part]) => [name, part.parameterCount()] as const);
  model.dispose();
  return Object.fromEntries(counts) as Record<keyof typeof sizes, number>;
}

/** Makes a part say to which devices it moves. */
function watched(part: Module, moves: string[], name: string): void {
  const move = part.to_.bind(part);
  part.to_ = (device) => {
    moves.push(`${name} to ${device}`);
    return move(device);
  };
}

describe("model.offload", () => {
  // libtorch knows the CPU by this name as well, and moves to it like to any other device.
  const device = "cpu:0" as Device;

  for (const name of ["sd1", "sdxl"]) {
    it(`brings the parts of ${name} when they are called, to the same bits, and holds no more tensors`, () => {
      const path = join(fixtures, name);
      const usual = StableDiffusionPipeline.fromPretrained(path);
      const expected = outputs(usual);
      usual.dispose();
      const model = StableDiffusionPipeline.fromPretrained(path, { device, offload: true });
      const moves: string[] = [];
      watched(model.textEncoder, moves, "text");
      watched(model.vae, moves, "vae");
      watched(model.unet, moves, "unet");
      const calls: string[][] = [];
      const received = outputs(model, (call) => calls.push([call, ...moves.splice(0)]));
      assert.deepEqual(received, expected);
      const again = [
        ["encode", "vae to cpu", "text to cpu:0"],
        ["encode"],
        ["predict", "text to cpu"],
        ["decode", "vae to cpu:0"],
      ];
      // Everything is on the device at first.
      assert.deepEqual(calls, [["encode", "vae to cpu"], ...again.slice(1), ...again]);
      // Masks are cached at the first call; after it, nothing stays.
      const cached = liveTensors();
      outputs(model);
      assert.equal(liveTensors(), cached);
      model.dispose();
    });
  }

  it("counts in --dry-run as it is: parts in turn while images are scored, the denoiser alone in training", () => {
    const path = join(fixtures, "sd1");
    const bytes = (offload: boolean, device = "cuda") => {
      const config = tinyConfig({ model: { path, device, offload }, rewards: ["brightness"] });
      return Object.fromEntries(weightMemory(config).devices);
    };
    const { unet, vae, textEncoder } = partSizes(path);
    const trained = bytes(false)["cuda"]!.training - 4 * (unet + vae + textEncoder);
    assert.ok(trained > 0);
    assert.deepEqual(bytes(true), {
      cuda: { scoring: trained + 4 * (unet + Math.max(vae, textEncoder)), training: trained + 4 * unet },
      cpu: { scoring: 4 * (vae + textEncoder), training: 4 * (vae + textEncoder) },
    });
    assert.deepEqual(bytes(true, "cpu"), { cpu: bytes(false)["cuda"] });
  });

  it("does nothing on the CPU", () => {
    const model = StableDiffusionPipeline.fromPretrained(join(fixtures, "sd1"), { offload: true });
    const moves: string[] = [];
    watched(model.textEncoder, moves, "text");
    watched(model.vae, moves, "vae");
    outputs(model);
    assert.deepEqual(moves, []);
    model.dispose();
  });

  it("frees a GPU of what does not compute", { skip: deviceCount("cuda") === 0 && "no GPU" }, () => {
    const path = join(fixtures, "sd1");
    const use = (): number => deviceMemory("cuda")?.allocated ?? 0;
    const usual = StableDiffusionPipeline.fromPretrained(path, { device: "cuda" });
    const whole = use();
    const expected = outputs(usual);
    usual.dispose();
    const model = StableDiffusionPipeline.fromPretrained(path, { device: "cuda", offload: true });
    const bytes: Record<string, number> = {};
    assert.deepEqual(
      outputs(model, (call) => (bytes[call] = use())),
      expected,
    );
    const sizes = [model.textEncoder, model.vae].map((part) => 4 * part.parameterCount());
    assert.ok(bytes["predict"]! < whole - 0.9 * Math.max(...sizes) || deviceMemory("cuda") === undefined);
    model.dispose();
  });
});
