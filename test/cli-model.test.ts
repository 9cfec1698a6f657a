/** `b2 generate` with several LoRAs, `b2 merge`, `b2 convert` and `b2 download`, on the command line. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { readImage } from "../src/images/index.js";
import { LoraAdapter } from "../src/lora/index.js";
import { UNet2DConditionModel } from "../src/models/index.js";
import { loadSafetensors, readHeader } from "../src/safetensors/index.js";
import { tidy } from "../src/torch/index.js";
import { b2, startB2, warmB2, type Outcome } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { FakeHub } from "./support/hub.js";

const folder = temporaryFolder();
after(() => rmSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);

const model = join(fixtures, "sd1");
const lora = join(model, "lora", "pytorch_lora_weights.safetensors");
const settings = ["sample.steps=3", "model.height=32", "model.width=32", "sample.guidanceScale=1"].flatMap((value) => [
  "--set",
  value,
]);

async function generate(name: string, path: string, ...loras: string[]): Promise<Buffer> {
  const options = loras.flatMap((text) => ["--lora", text]);
  ok(await warmB2("generate", "a cat", "--out", at(name), "--set", `model.path=${path}`, ...settings, ...options));
  const [file] = readdirSync(at(name));
  return readFileSync(join(at(name), file!));
}

function ok({ code, stderr }: Outcome): void {
  assert.equal(code, 0, stderr);
}

function refused({ code, stderr }: Outcome, message: RegExp): void {
  assert.equal(code, 2, stderr);
  assert.match(stderr, message);
}

/** The largest difference of two pictures, in 0..1. */
const difference = async (a: string, b: string): Promise<number> => {
  const [x, y] = await Promise.all([a, b].map((name) => readImage(join(at(name), readdirSync(at(name))[0]!))));
  let worst = 0;
  tidy(() => {
    worst = x!.sub(y!).abs().amax().item();
  });
  return worst;
};

describe("LoRAs on the command line", () => {
  test("several with weights; merged into a model folder they give the same picture", async () => {
    const base = await generate("base", model);
    const whole = await generate("whole", model, lora);
    assert(!whole.equals(base));
    await generate("split", model, `${lora}:0.75`, `${lora}:0.25`);
    assert((await difference("whole", "split")) <= 2 / 255);
    assert((await generate("none", model, `${lora}:0`)).equals(base));
    ok(await warmB2("merge", at("merged"), "--lora", lora, "--set", `model.path=${model}`));
    await generate("of-merged", at("merged"));
    assert((await difference("whole", "of-merged")) <= 2 / 255);
    refused(
      await warmB2("merge", at("merged"), "--lora", lora, "--set", `model.path=${model}`),
      /Expected an empty or new folder/,
    );
    refused(
      await warmB2("generate", "a", "--lora", at("nowhere"), "--set", `model.path=${model}`),
      /for --lora but received .*nowhere/,
    );
  });

  test("converted to kohya's form and back", async () => {
    ok(await warmB2("convert", lora, at("kohya.safetensors"), "--form", "kohya"));
    assert([...readHeader(at("kohya.safetensors")).tensors.keys()].every((key) => key.startsWith("lora_unet_")));
    ok(await warmB2("convert", at("kohya.safetensors"), at("peft.safetensors"), "--form", "peft"));
    tidy(() => {
      const [there, back] = [loadSafetensors(lora), loadSafetensors(at("peft.safetensors"))];
      for (const [key, value] of there) assert(value.equal(back.get(key)!), key);
    });
    assert(
      (await generate("of-kohya", model, at("kohya.safetensors"))).equals(
        readFileSync(join(at("whole"), readdirSync(at("whole"))[0]!)),
      ),
    );
    refused(await warmB2("convert", lora, at("x.safetensors")), /Expected --form peft or --form kohya/);
    refused(await warmB2("convert", lora, at("peft.safetensors"), "--form", "peft"), /Expected a new file/);
  });
});

describe("models on the command line", () => {
  test("a folder to one file in half precision and back, and a picture from each", async () => {
    ok(await warmB2("convert", model, at("one.safetensors"), "--dtype", "float16"));
    const { tensors } = readHeader(at("one.safetensors"));
    assert.equal(tensors.get("model.diffusion_model.out.2.weight")?.dtype, "F16");
    ok(await warmB2("convert", at("one.safetensors"), at("again"), "--model-config", model));
    await generate("of-again", at("again"));
    await generate("plain", model);
    assert((await difference("plain", "of-again")) <= 8 / 255);
    const oneFile = ["--set", `model.path=${at("one.safetensors")}`, "--set", `model.config=${model}`];
    ok(await warmB2("generate", "a cat", "--out", at("of-one"), ...settings, ...oneFile));
    assert((await difference("of-one", "of-again")) <= 1 / 255);
    refused(await warmB2("convert", model, at("again")), /Expected a new file or folder/);
    refused(await warmB2("convert", at("nowhere"), at("y")), /Expected a model folder but received \S+nowhere/);
    refused(await warmB2("convert", model, at("y"), "--form", "peft"), /Expected no --form for a model folder/);
    refused(
      await warmB2("convert", lora, at("y"), "--form", "peft", "--dtype", "float16"),
      /Expected no --dtype for a LoRA/,
    );
    refused(await warmB2("convert", model, at("y.ckpt")), /Expected a folder, or a file that ends in \.safetensors/);
    const taken = at("one.safetensors");
    refused(
      await warmB2("convert", model, join(taken, "y")),
      /Expected to write \S+one\.safetensors but it is a file, not a folder/,
    );
    const path = ["--set", `model.path=${model}`];
    refused(await warmB2("generate", "a", "--out", taken, ...path, ...settings), /but it is a file, not a folder/);
    refused(await warmB2("eval", "--out", folder, ...path, ...settings), /Expected a file to write to/);
    refused(await warmB2("merge", taken, "--lora", lora, ...path), /Expected an empty or new folder/);
    assert(!existsSync(at("y")));
  });
});

describe("models by name", () => {
  const weights = "unet/diffusion_pytorch_model.safetensors";
  let hub: FakeHub;
  before(async () => {
    const repository = at("repository");
    mkdirSync(repository);
    for (const part of ["model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"]) {
      cpSync(join(model, part), join(repository, part), { recursive: true });
    }
    const adapter = at("adapter");
    mkdirSync(adapter);
    cpSync(lora, join(adapter, "pytorch_lora_weights.safetensors"));
    const clip = at("clip");
    for (const part of ["clip", "tokenizer"]) cpSync(join(model, part), clip, { recursive: true });
    hub = await FakeHub.start({
      "someone/model": { folder: repository },
      "someone/lora": { folder: adapter },
      "someone/clip": { folder: clip },
    });
    process.env["HF_ENDPOINT"] = hub.url;
    process.env["HF_HOME"] = at("home");
  });
  after(() => hub.stop());

  test(
    "a download that was killed goes on where it ended, in two processes of which one downloads",
    { timeout: 120_000 },
    async () => {
      const home = process.env["HF_HOME"];
      process.env["HF_HOME"] = at("killed");
      // The first stored file is the vocabulary, the second the UNet.
      Object.assign(hub, { silent: true, breakAfter: [Infinity, 100_000] });
      const { child, outcome } = startB2("download", "someone/model");
      const blobs = at("killed/hub/models--someone--model/blobs");
      const unet = createHash("sha256")
        .update(readFileSync(join(model, weights)))
        .digest("hex");
      const part = join(blobs, `${unet}.incomplete`);
      while (!existsSync(part) || statSync(part).size < 100_000) await sleep(20);
      child.kill("SIGKILL");
      assert.equal((await outcome).code, null);
      hub.silent = false;
      hub.requests.length = 0;
      for (const again of await Promise.all([b2("download", "someone/model"), b2("download", "someone/model")]))
        ok(again);
      const stored = hub.requests.filter(({ server }) => server === "store");
      assert.deepEqual(
        stored.map(({ path, range }) => [basename(dirname(path)), range]),
        [
          ["unet", "bytes=100000-"],
          ["vae", undefined],
          ["text_encoder", undefined],
        ],
      );
      process.env["HF_HOME"] = home;
    },
  );

  test("downloaded once, then used, with a LoRA by name", async () => {
    const downloaded = await warmB2("download", "someone/model");
    ok(downloaded);
    assert(existsSync(join(downloaded.stdout.trim(), "model_index.json")));
    const { sent } = hub;
    const picture = await generate("by-name", "someone/model");
    assert.equal(hub.sent, sent);
    assert(picture.equals(await generate("by-path", model)));
    ok(await warmB2("convert", "someone/model", at("from-hub.safetensors")));
    assert.equal(hub.sent, sent);
    assert(
      (await generate("lora-by-name", "someone/model", "someone/lora")).equals(
        await generate("lora-by-path", model, lora),
      ),
    );
    refused(await warmB2("download", "someone/nothing"), /Expected access to someone\/nothing/);
    for (const pickle of [
      ["download", "someone/model/v1-5.ckpt"],
      ["generate", "a", "--set", "model.path=v1-5.ckpt"],
      ["generate", "a", "--lora", "style.pt"],
      ["convert", "v1-5.ckpt", at("z")],
    ]) {
      refused(
        await warmB2(...pickle),
        /received \S+, a pickle, which can run any code when it is loaded. If you trust its origin, convert it once/,
      );
    }
    refused(
      await warmB2("generate", "a", "--set", "model.path=no such model"),
      /Expected a model folder but received no such model/,
    );
  });

  test("from a checkpoint on the hub to a LoRA to pictures", async () => {
    const values = {
      ...{ "model.path": "someone/model", "reward.model": "someone/clip", "eval.clip": "someone/clip" },
      ...{ stages: 1, "branch.count": 2, "interval.first": 2, "interval.last": 3, "sample.rootsPerStage": 2 },
      ...{ "eval.maxPrompts": 1, "eval.imagesPerPrompt": 1, "eval.sheet": 1, "prompts.train": '["a cat"]' },
      ...{ "select.positiveThreshold": 0, "select.negativeThreshold": 0, "sample.steps": 3 },
      ...{ "model.height": 16, "model.width": 16 },
    };
    const set = Object.entries(values).flatMap(([key, value]) => ["--set", `${key}=${value}`]);
    ok(await warmB2("run", at("run"), "--preset", "sd", "--device", "cpu", "--dtype", "float32", ...set));
    ok(await warmB2("generate", "a dog", "--lora", at("run"), "--out", at("of-run")));
    assert.deepEqual(readdirSync(at("of-run")), ["00-0-a-dog.png", "metadata.jsonl"]);
    ok(await warmB2("convert", at("run"), at("run.safetensors"), "--form", "kohya"));
  });
});

test("a LoRA trained here is in the form it says", () => {
  const unet = UNet2DConditionModel.fromPretrained(join(model, "unet"));
  const adapter = LoraAdapter.fromPretrained(unet, lora);
  adapter.save(at("own.safetensors"));
  const { metadata } = readHeader(at("own.safetensors"));
  const described = JSON.parse(metadata["lora_adapter_metadata"]!) as Record<string, unknown>;
  assert.equal(described["unet.r"], 4);
  adapter.dispose();
  unet.dispose();
});

test("what cannot be read back, or is no LoRA, is refused", async () => {
  const one = at("emoji.safetensors");
  refused(
    await warmB2("convert", "models/emoji", one),
    /4 channels of latents for the one file \S+ but received one with 8/,
  );
  assert(!existsSync(one));
  refused(
    await warmB2("generate", "a cat", "--lora", folder),
    /a folder with pytorch_lora_weights\.safetensors or adapter_model/,
  );
});
