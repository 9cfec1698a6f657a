/** Models from the hub: against a server on this machine that speaks its interface, over real folders. */
import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { cachedModel, downloadModel, parseHubName } from "../src/hub/index.js";
import { StableDiffusionPipeline } from "../src/pipeline/index.js";
import { FakeHub } from "./support/hub.js";
import { fixtures } from "./support/tiny.js";

const scratch = mkdtempSync(join(tmpdir(), "b2-hub-"));
const parts = ["model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae"];
const name = "someone/narrow-stable-diffusion";
let hub: FakeHub;

/** A repository with things in it that nobody here needs. */
function repository(folder: string, ...extra: readonly (readonly [string, string | number])[]): string {
  mkdirSync(folder, { recursive: true });
  for (const part of parts) cpSync(join(fixtures, "sd1", part), join(folder, part), { recursive: true });
  for (const [path, content] of extra) {
    mkdirSync(join(folder, path, ".."), { recursive: true });
    writeFileSync(join(folder, path), typeof content === "string" ? content : Buffer.alloc(content, 7));
  }
  return folder;
}

const weights = "unet/diffusion_pytorch_model.safetensors";

before(async () => {
  const plain = repository(
    join(scratch, "plain"),
    ...([
      ["README.md", "hello"],
      ["unet/diffusion_pytorch_model.bin", 50_000],
      ["v1-5.ckpt", 90_000],
    ] as const),
    ...([
      ["safety_checker/model.safetensors", 70_000],
      ["whole.safetensors", 80_000],
    ] as const),
  );
  cpSync(join(fixtures, "sd1", weights), join(plain, "unet/diffusion_pytorch_model.fp16.safetensors"));
  const pickled = repository(join(scratch, "pickled"));
  renameSync(join(pickled, weights), join(pickled, "unet/diffusion_pytorch_model.bin"));
  const lora = join(scratch, "lora");
  cpSync(
    join(fixtures, "sd1", "lora", "pytorch_lora_weights.safetensors"),
    join(lora, "pytorch_lora_weights.safetensors"),
  );
  hub = await FakeHub.start({
    [name]: { folder: plain },
    "someone/pickled": { folder: pickled },
    "someone/gated": { folder: plain, token: "hf_secret" },
    "someone/lora": { folder: lora },
  });
});
after(async () => {
  await hub.stop();
  rmSync(scratch, { recursive: true });
});

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(scratch, "cache-"));
  hub.requests.length = 0;
  Object.assign(hub, { sent: 0, corrupt: false, breakAfter: [] });
  process.env["HF_ENDPOINT"] = hub.url;
  delete process.env["HF_TOKEN"];
  process.env["HF_TOKEN_PATH"] = join(scratch, "no-token");
});

/** Files below a folder, links followed. */
const filesIn = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => statSync(join(folder, path)).isFile())
    .sort();

describe("a model by name", () => {
  test("what is needed and no more, once, in the cache's own layout", async () => {
    let [promised, received] = [0, 0];
    const options = {
      cache,
      onStart: (_files: number, bytes: number) => (promised = bytes),
      onBytes: (bytes: number) => (received += bytes),
    };
    const folder = await downloadModel(name, options);
    assert.equal(folder, join(cache, "models--someone--narrow-stable-diffusion", "snapshots", hub.commit));
    const expected = parts.flatMap((part) => {
      const path = join(fixtures, "sd1", part);
      return statSync(path).isFile()
        ? [part]
        : filesIn(path)
            .filter((file) => !file.startsWith("io"))
            .map((file) => `${part}/${file}`);
    });
    assert.deepEqual(filesIn(folder), expected.filter((path) => !path.endsWith("expected.json")).sort());
    assert.equal(received, promised);
    assert.equal(received, hub.sent);
    assert.equal(readFileSync(join(folder, "..", "..", "refs", "main"), "utf8"), hub.commit);
    const pipeline = StableDiffusionPipeline.fromPretrained(folder);
    pipeline.dispose();

    const sent = hub.sent;
    assert.equal(await downloadModel(name, { cache }), folder);
    assert.equal(hub.sent, sent, "a second time");
    await hub.stop();
    try {
      assert.equal(await downloadModel(name, { cache }), folder, "without a connection");
      assert.equal(await downloadModel(name, { cache, offline: true }), folder);
      await assert.rejects(
        downloadModel("someone/else", { cache }),
        /Expected a connection to the hub for someone\/else/,
      );
      await assert.rejects(
        downloadModel("someone/else", { cache, offline: true }),
        /HF_HUB_OFFLINE is set, but it is not there/,
      );
    } finally {
      const again = await FakeHub.start(hub["repositories"]);
      hub = again;
    }
  });

  test("a variant, where there is one", async () => {
    const folder = await downloadModel(name, { cache, variant: "fp16" });
    assert.deepEqual(filesIn(join(folder, "unet")), ["config.json", "diffusion_pytorch_model.fp16.safetensors"]);
    assert(existsSync(join(folder, "vae/diffusion_pytorch_model.safetensors")));
  });

  test("one file of a repository, and a LoRA", async () => {
    const file = await downloadModel(`${name}/whole.safetensors`, { cache });
    assert.equal(statSync(file).size, 80_000);
    const lora = await downloadModel("someone/lora", { cache, purpose: "weights" });
    assert.match(lora, /pytorch_lora_weights\.safetensors$/);
    assert.equal(cachedModel(`${name}/whole.safetensors`, { cache }), file);
    assert.equal(cachedModel(`${name}/other.safetensors`, { cache }), undefined);
  });

  test("a broken connection is taken up where it ended", async () => {
    const size = statSync(join(fixtures, "sd1", weights)).size;
    hub.breakAfter = [1000, 5000, 0];
    const folder = await downloadModel(name, { cache });
    const ranges = hub.requests.filter(({ server }) => server === "store").map(({ range }) => range);
    assert(ranges.includes("bytes=1000-") && ranges.includes("bytes=6000-"), ranges.join());
    assert(filesIn(folder).includes(weights));
    assert.equal(statSync(join(folder, weights)).size, size);
    assert.deepEqual(readFileSync(join(folder, weights)), readFileSync(join(fixtures, "sd1", weights)));
  });

  test("an interrupted download goes on in the next process", async () => {
    const controller = new AbortController();
    let seen = 0;
    hub.breakAfter = [Infinity, 3000];
    const first = downloadModel(name, {
      cache,
      signal: controller.signal,
      onBytes: (bytes) => {
        seen += bytes;
        if (hub.breakAfter.length === 0) controller.abort();
      },
    });
    await assert.rejects(first);
    assert.equal(cachedModel(name, { cache }), undefined);
    const parts = filesIn(join(cache, "models--someone--narrow-stable-diffusion", "blobs")).filter((path) =>
      path.endsWith(".incomplete"),
    );
    assert.equal(parts.length, 1);
    const before = hub.sent;
    const folder = await downloadModel(name, { cache });
    assert(
      hub.requests.some(({ range }) => range !== undefined),
      "a range was asked for",
    );
    const whole = filesIn(folder).reduce((sum, path) => sum + statSync(join(folder, path)).size, 0);
    assert.equal(seen + hub.sent - before, whole, "no byte came twice");
  });

  test("two at once", async () => {
    const [a, b] = await Promise.all([downloadModel(name, { cache }), downloadModel(name, { cache })]);
    assert.equal(a, b);
    assert.deepEqual(readFileSync(join(a, weights)), readFileSync(join(fixtures, "sd1", weights)));
  });
});

describe("what is refused", () => {
  const cases: readonly (readonly [what: string, model: string, options: { revision?: string }, message: RegExp])[] = [
    ["no such repository", "someone/nowhere", {}, /Expected access to someone\/nowhere .* set HF_TOKEN/],
    ["no access", "someone/gated", {}, /Expected access to someone\/gated .*licence/],
    ["no such revision", name, { revision: "v9" }, /Expected a revision of .* but received v9/],
    ["pickles", "someone/pickled", {}, /someone\/pickled\/unet but received pickles, .*save_pretrained/],
    ["no such file", `${name}/none.safetensors`, {}, /Expected none\.safetensors in/],
    ["no name", "not a name", {}, /Expected owner\/name/],
  ];
  for (const [what, model, options, message] of cases) {
    test(what, async () => {
      await assert.rejects(downloadModel(model, { cache, ...options }), (error: Error) => {
        assert.equal(error.name, "HubError");
        assert.match(error.message, message);
        return true;
      });
    });
  }

  test("a file that is not what the hub says", async () => {
    hub.corrupt = true;
    await assert.rejects(downloadModel(name, { cache }), /Expected SHA-256 [0-9a-f]{64} for .* thrown away/);
    assert.equal(cachedModel(name, { cache }), undefined);
    hub.corrupt = false;
    assert(existsSync(await downloadModel(name, { cache })));
  });
});

test("the token is for the hub and not for its store", async () => {
  process.env["HF_TOKEN"] = "hf_secret";
  await downloadModel("someone/gated", { cache });
  for (const { server, token } of hub.requests) assert.equal(token, server === "hub" ? "hf_secret" : undefined);
  assert(hub.requests.some(({ server }) => server === "store"));
});

test("names", () => {
  assert.deepEqual(parseHubName("a/b"), { repository: "a/b", file: undefined });
  assert.deepEqual(parseHubName("a/b/c/d.safetensors"), { repository: "a/b", file: "c/d.safetensors" });
  for (const text of ["a", "/a/b", "./a/b", "../a", "a/../b.safetensors", "a/b.safetensors", "a b/c"]) {
    assert.equal(parseHubName(text), undefined, text);
  }
});
