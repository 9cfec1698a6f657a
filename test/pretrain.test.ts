/** The whole pre-training in short, by its own command: cut off after the first step, gone on with, and used. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { b2 } from "./support/cli.js";
import { repository, temporaryFolder } from "./support/folders.js";

/** Runs the command until it ends, or until it has printed a text. */
function pretrain(
  folder: string,
  until?: string,
  ...options: string[]
): Promise<{ output: string; code: number | null }> {
  const main = join(repository, "dist/scripts/pretrain/main.js");
  const places = ["--out", join(folder, "models"), "--work", join(folder, "work")];
  const child = spawn(process.execPath, [main, ...places, "--scale", "0.0005", "--threads", "1", ...options]);
  let output = "";
  const read = (data: Buffer): void => {
    output += data.toString();
    if (until !== undefined && output.includes(until)) child.kill("SIGKILL");
  };
  child.stdout.on("data", read);
  child.stderr.on("data", read);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ output, code }));
  });
}

describe("npm run pretrain", () => {
  it("trains everything from nothing, and does no finished step twice when it was cut off", async () => {
    const folder = temporaryFolder();
    const refused = await pretrain(folder, undefined, "--device", "gpu");
    assert.notEqual(refused.code, 0);
    assert.match(refused.output, /Expected cpu, or a cuda or mps that is on this machine, but received "gpu"/);
    const cut = await pretrain(folder, "decoder");
    assert.equal(cut.code, null, cut.output);
    const vae = join(folder, "models/emoji/vae/config.json");
    const encoder = readFileSync(vae, "utf8");

    const whole = await pretrain(folder);
    assert.equal(whole.code, 0, whole.output);
    assert.match(whole.output, /vae: finished before/);
    assert.equal(readFileSync(vae, "utf8"), encoder);
    const pipelines = [
      "emoji/unet",
      "emoji/text_encoder",
      "emoji/vae",
      "emoji-flow/transformer",
      "emoji-flow/text_encoder",
    ];
    for (const part of [...pipelines, "emoji-clip", "emoji-classifier"]) {
      const files = readdirSync(join(folder, "models", part));
      assert.ok(
        files.some((file) => file.endsWith(".safetensors")),
        `${part}: ${files.join()}`,
      );
      assert.ok(files.includes("config.json"), part);
    }
    assert.ok(existsSync(join(folder, "work/samples.png")));
    // It was drawn from with the VAE of the other model, which is stored once.
    assert.ok(existsSync(join(folder, "models/emoji-flow/metrics.json")));
    assert.ok(!existsSync(join(folder, "models/emoji-flow/vae")));

    const images = join(folder, "images");
    const model = `model.path=${join(folder, "models/emoji")}`;
    const drawn = await b2("generate", "a fox riding a bike with a green apple", "--out", images, "--set", model, "--set", "sample.steps=2"); // prettier-ignore
    assert.equal(drawn.code, 0, drawn.stderr);
    assert.equal(readdirSync(images).filter((name) => name.endsWith(".png")).length, 1);
  });
});
