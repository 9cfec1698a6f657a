/** Models from the hub: against a server on this machine that speaks its interface, over real folders. */
import assert from "node:assert/strict";
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import { homedir, hostname } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, describe, test } from "node:test";
import { hubCache, hubEndpoint, hubToken, isOffline } from "../src/hub/environment.js";
import { cachedModel, downloadModel, parseHubName, type DownloadModelOptions } from "../src/hub/index.js";
import { modelFamilies, StableDiffusionPipeline } from "../src/pipeline/index.js";
import { b2With } from "./support/cli.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { FakeHub } from "./support/hub.js";

const scratch = temporaryFolder();
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

/** A repository of files of these sizes, which are downloaded and not loaded. */
function folderOf(called: string, sizes: Readonly<Record<string, number>>): string {
  for (const [path, size] of Object.entries(sizes)) {
    mkdirSync(join(scratch, called, path, ".."), { recursive: true });
    writeFileSync(join(scratch, called, path), Buffer.alloc(size, path));
  }
  return join(scratch, called);
}

/** Shards, one file beside shards, a variant alone, and what other libraries read. */
const forms = {
  "model_index.json": 10,
  "unet/config.json": 10,
  "unet/diffusion_pytorch_model.safetensors.index.json": 20,
  "unet/diffusion_pytorch_model-00001-of-00002.safetensors": 3000,
  "unet/diffusion_pytorch_model-00002-of-00002.safetensors": 3001,
  "unet/diffusion_pytorch_model.fp16.safetensors": 3002,
  "unet/diffusion_pytorch_model.non_ema.safetensors": 3003,
  "unet/model.onnx": 3004,
  "vae/diffusion_pytorch_model.fp16.safetensors": 3005,
  "text_encoder/model.safetensors": 3006,
  "text_encoder/model.safetensors.index.json": 21,
  "text_encoder/model-00001-of-00001.safetensors": 3007,
  "text_encoder/model.fp16.safetensors": 3008,
  "text_encoder/flax_model.msgpack": 3009,
};

/** A CLIP in OpenCLIP's layout. */
const openClip = {
  "open_clip_config.json": 10,
  "open_clip_model.safetensors": 3000,
  "open_clip_pytorch_model.bin": 3001,
  "vocab.json": 11,
  "merges.txt": 12,
  "README.md": 13,
};

/** Stable Diffusion 3 without two of its text encoders, and what others read. */
const sd3 = {
  "model_index.json": 10,
  "scheduler/scheduler_config.json": 10,
  "sd3.5_medium.safetensors": 3000,
  "text_encoder/config.json": 10,
  "text_encoder/model.safetensors": 3001,
  "text_encoder/model.fp16.safetensors": 3002,
  "text_encoders/t5xxl_fp16.safetensors": 3003,
  "tokenizer/merges.txt": 11,
  "tokenizer/vocab.json": 12,
  "tokenizer_3/spiece.model": 13,
  "tokenizer_3/chat_template.jinja": 17,
  "tokenizer_3/tokenizer.json": 14,
  "tokenizer_3/tokenizer_config.json": 15,
  "transformer/config.json": 10,
  "transformer/diffusion_pytorch_model.safetensors": 3004,
  "vae/config.json": 10,
  "vae/diffusion_pytorch_model.safetensors": 3005,
  "vae copy/diffusion_pytorch_model.safetensors": 3006,
};

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
  const pickledLora = folderOf("pickled-lora", { "pytorch_lora_weights.bin": 3000 });
  hub = await FakeHub.start({
    [name]: { folder: plain },
    "someone/pickled": { folder: pickled },
    "someone/pickled-clip": { folder: folderOf("pickled-clip", { "config.json": 10, "pytorch_model.bin": 3000 }) },
    "someone/pickled-lora": { folder: pickledLora },
    "someone/gated": { folder: plain, gated: "hf_secret" },
    "someone/formerly": { folder: plain, renamed: name },
    "someone/lora": { folder: lora },
    "someone/named-lora": { folder: folderOf("named-lora", { "README.md": 10, "ink.safetensors": 3000 }) },
    "someone/forms": { folder: folderOf("forms", forms) },
    "someone/open-clip": { folder: folderOf("open-clip", openClip) },
    "someone/roberta": { folder: join(fixtures, "rewards/roberta") },
    "someone/sd3": { folder: folderOf("sd3", sd3) },
    "someone/other": { folder: folderOf("other", { "model_index.json": 10, "transformer/model.safetensors": 3000 }) },
  });
});
after(() => hub.stop());

let cache: string;
beforeEach(() => {
  cache = temporaryFolder();
  hub.requests.length = 0;
  Object.assign(hub, { sent: 0, corrupt: false, silent: false, breakAfter: [], failures: [] });
  process.env["HF_ENDPOINT"] = hub.url;
  for (const variable of ["HF_TOKEN", "HF_HUB_DOWNLOAD_TIMEOUT"]) delete process.env[variable];
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
      const again = await FakeHub.start(hub.repositories);
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
    const named = await downloadModel("someone/named-lora", { cache, purpose: "weights" });
    assert.match(named, /ink\.safetensors$/);
    assert.equal(await downloadModel("someone/named-lora", { cache, purpose: "weights", offline: true }), named);
    assert.equal(cachedModel(`${name}/whole.safetensors`, { cache }), file);
    assert.equal(cachedModel(`${name}/other.safetensors`, { cache }), undefined);
  });

  test("of shards, one file and variants only those that are loaded", async () => {
    const folder = await downloadModel("someone/forms", { cache, variant: "fp16" });
    const [index, unet] = ["model_index.json", "unet/config.json"];
    assert.deepEqual(filesIn(folder), [
      ...[index, "text_encoder/model.fp16.safetensors", unet, "unet/diffusion_pytorch_model.fp16.safetensors"],
      "vae/diffusion_pytorch_model.fp16.safetensors",
    ]);
    const [vae, plainVae] = ["vae/diffusion_pytorch_model.fp16.safetensors", "vae/diffusion_pytorch_model.safetensors"];
    renameSync(join(scratch, "forms", vae), join(scratch, "forms", plainVae));
    const plain = await downloadModel("someone/forms", { cache: join(cache, "plain") });
    assert.deepEqual(filesIn(plain), [
      ...[index, "text_encoder/model.safetensors", unet],
      ...[1, 2].map((shard) => `unet/diffusion_pytorch_model-0000${shard}-of-00002.safetensors`),
      ...["unet/diffusion_pytorch_model.safetensors.index.json", plainVae],
    ]);
    renameSync(join(scratch, "forms", plainVae), join(scratch, "forms", vae));
  });

  test("a text encoder comes with its tokenizer", async () => {
    const folder = await downloadModel("someone/roberta", { cache });
    const files = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    assert.deepEqual(filesIn(folder), files);
  });

  test("of Stable Diffusion 3 its own folders, those of text encoders where it has them", async () => {
    const layouts = modelFamilies.entries().flatMap((family) => family.repository ?? []);
    const folder = await downloadModel("someone/sd3", { cache, layouts });
    const others = /spiece|sd3\.5|fp16|copy/;
    assert.deepEqual(
      filesIn(folder),
      Object.keys(sd3)
        .filter((path) => !others.test(path))
        .sort(),
    );
  });

  test("settings without weights serve a checkpoint of one file", async () => {
    const folder = await downloadModel(name, { cache, purpose: "settings" });
    assert(filesIn(folder).includes("unet/config.json") && filesIn(folder).includes("tokenizer/merges.txt"));
    assert(!filesIn(folder).some((path) => path.endsWith(".safetensors")));
    await assert.rejects(downloadModel(name, { cache, offline: true }), /not there: Expected safetensors weights in/);
  });

  test("a CLIP in OpenCLIP's layout, and its tokenizer alone", async () => {
    const settings = ["merges.txt", "open_clip_config.json", "vocab.json"];
    const alone = await downloadModel("someone/open-clip", { cache, purpose: "settings" });
    assert.deepEqual(filesIn(alone), settings);
    const whole = await downloadModel("someone/open-clip", { cache });
    assert.deepEqual(filesIn(whole), [...settings, "open_clip_model.safetensors"].sort());
  });

  test("a revision, in the name or beside it", async () => {
    const folder = await downloadModel(`${name}@refs/pr/1`, { cache });
    assert.equal(readFileSync(join(folder, "../../refs/refs/pr/1"), "utf8"), hub.commit);
    assert.equal(cachedModel(name, { cache }), undefined, "main was not asked for");
    assert.equal(cachedModel(name, { cache, revision: "refs/pr/1" }), folder);
    assert.equal(cachedModel(`${name}@${hub.commit}`, { cache }), folder);
  });

  test("a repository by the name it had", async () => {
    const folder = await downloadModel("someone/formerly", { cache });
    assert.match(folder, /models--someone--formerly/);
    assert(filesIn(folder).includes(weights));
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

  test("a connection that falls silent is taken up like one that breaks", { timeout: 60_000 }, async () => {
    process.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "0.5";
    Object.assign(hub, { silent: true, breakAfter: [1000] });
    const folder = await downloadModel(name, { cache });
    assert(hub.requests.some(({ range }) => range === "bytes=1000-"));
    assert(filesIn(folder).includes(weights));
  });

  test("an overloaded hub is asked again, when it says", async () => {
    hub.failures = [{ status: 503 }, { status: 429, headers: { ratelimit: '"api";r=0;t=2' } }];
    const start = Date.now();
    const folder = await downloadModel(name, { cache });
    assert(Date.now() - start >= 2400, "half a second for the first, and for the second the two it asks for");
    hub.failures = [{ status: 429, headers: { "retry-after": "290" } }];
    assert.equal(await downloadModel(name, { cache }), folder, "the cache will do");
    hub.failures = [{ status: 429, headers: { "retry-after": "290" } }];
    await assert.rejects(downloadModel("someone/lora", { cache }), /status 429.* wait 290 seconds/);
  });

  test("what the cache has is used where the hub refuses", async () => {
    process.env["HF_TOKEN"] = "hf_secret";
    const folder = await downloadModel("someone/gated", { cache });
    process.env["HF_TOKEN"] = "hf_expired";
    assert.equal(await downloadModel("someone/gated", { cache }), folder);
  });

  test("an interrupted download goes on in the next call", async () => {
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

  test(
    "a lock that a killed process left does not last, though its id is in use again",
    { timeout: 60_000 },
    async () => {
      const blobs = join(cache, "models--someone--lora", "blobs");
      mkdirSync(blobs, { recursive: true });
      const [, lora] = hub.filesOf("someone/lora").find(([path]) => path.endsWith(".safetensors"))!;
      const left = join(blobs, `${lora}.lock`);
      writeFileSync(left, `${process.ppid} ${hostname()}`);
      const abort = AbortSignal.timeout(1000);
      const purpose = "weights";
      await assert.rejects(
        downloadModel("someone/lora", { cache, purpose, signal: abort }),
        /abort/i,
        "it is respected",
      );
      const before = new Date(Date.now() - 11_000);
      utimesSync(left, before, before);
      assert(existsSync(await downloadModel("someone/lora", { cache, purpose })));
      assert(!existsSync(left));
    },
  );

  test("two at once", async () => {
    const [a, b] = await Promise.all([downloadModel(name, { cache }), downloadModel(name, { cache })]);
    assert.equal(a, b);
    assert.deepEqual(readFileSync(join(a, weights)), readFileSync(join(fixtures, "sd1", weights)));
  });
});

describe("what is refused", () => {
  const cases: readonly (readonly [what: string, model: string, options: DownloadModelOptions, message: RegExp])[] = [
    ["no such repository", "someone/nowhere", {}, /Expected access to someone\/nowhere .* misspelt.* set HF_TOKEN/],
    ["no access", "someone/gated", {}, /Expected access to someone\/gated\/\S+ .* gated\. Accept its licence/],
    ["no such revision", name, { revision: "v9" }, /Expected a revision of .* but received v9/],
    ["pickles", "someone/pickled", {}, /someone\/pickled\/unet but received pickles, which can .*DiffusionPipeline/],
    ["a pickled CLIP", "someone/pickled-clip", {}, /someone\/pickled-clip but received pickles, .*import AutoModel/],
    ["a pickled LoRA", "someone/pickled-lora", { purpose: "weights" }, /but received pickles, .*weights_only=True/],
    ["a variant alone", "someone/forms", {}, /in someone\/forms\/vae but received only the variants fp16/],
    ["no such variant", name, { variant: "bf16" }, /Expected weights of the variant bf16 in .* but received none/],
    [
      "no Stable Diffusion",
      "someone/other",
      {},
      /Expected safetensors weights in someone\/other\/unet but received none/,
    ],
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
      assert.equal(hub.sent, 0, "before anything is downloaded");
    });
  }

  test("to those with a token too: no such repository, and a token that is none", async () => {
    process.env["HF_TOKEN"] = "of-a-mirror";
    await assert.rejects(
      downloadModel("someone/nowhere", { cache }),
      /Expected access to someone\/nowhere .* misspelt/,
    );
    process.env["HF_TOKEN"] = "hf_expired";
    await assert.rejects(downloadModel(name, { cache }), /Expected a valid token .* expired/);
  });

  test("a cache that cannot be written to, and a full disk", { skip: !existsSync("/dev/full") }, async () => {
    const file = join(cache, "file");
    writeFileSync(file, "");
    await assert.rejects(
      downloadModel("someone/lora", { cache: file, purpose: "weights" }),
      /Expected to write to .*HF_HOME/,
    );
    const blobs = join(cache, "models--someone--lora", "blobs");
    mkdirSync(blobs, { recursive: true });
    const [, lora] = hub.filesOf("someone/lora").find(([path]) => path.endsWith(".safetensors"))!;
    symlinkSync("/dev/full", join(blobs, `${lora}.incomplete`));
    await assert.rejects(downloadModel("someone/lora", { cache, purpose: "weights" }), /the disk is full .*HF_HOME/);
  });

  test("a file that is not what the hub says", async () => {
    hub.corrupt = true;
    await assert.rejects(downloadModel(name, { cache }), /Expected SHA-256 [0-9a-f]{64} for .* download was discarded/);
    assert.equal(cachedModel(name, { cache }), undefined);
    hub.corrupt = false;
    assert(existsSync(await downloadModel(name, { cache })));
  });
});

describe("a hub that answers what no hub should", () => {
  type Entry = Record<string, unknown>;
  const commit = "0123456789abcdef0123456789abcdef01234567";
  const files = ["vocab.json", "merges.txt"].map((path): Entry => ({ type: "file", path, size: 2, oid: commit }));
  /** What it says of the repository, a list of files by page, and what a file holds. */
  interface Answers {
    readonly sha?: unknown;
    readonly list?: readonly Entry[];
    readonly location?: string;
    readonly content?: (response: ServerResponse) => void;
  }

  /** Downloads from such a hub, into a cache in a folder of its own. */
  async function from(answers: Answers): Promise<{ folder: string; error: Error }> {
    const { sha = commit, list = files, location, content } = answers;
    const server = createServer(({ url = "" }, response) => {
      if (url.includes("/revision/")) return void response.end(JSON.stringify({ _id: "1", id: "a/b", sha }));
      if (url.includes("/tree/")) return void response.end(JSON.stringify(list));
      if (location !== undefined) return void response.writeHead(302, { location }).end();
      if (content !== undefined) return content(response);
      response.end("{}");
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    const folder = temporaryFolder();
    const cache = join(folder, "some", "where", "cache");
    const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    try {
      let error = new Error("none");
      process.env["HF_ENDPOINT"] = endpoint;
      await downloadModel("a/b", { purpose: "tokenizer", cache, firstDelay: 1 }).catch(
        (thrown: Error) => (error = thrown),
      );
      return { folder, error };
    } finally {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
  }

  const withFirst = (change: Entry): Answers => ({ list: [{ ...files[0], ...change }, files[1]!] });
  const cases: Readonly<Record<string, readonly [Answers, RegExp]>> = {
    "a commit that is a path": [{ sha: "../../../../out" }, /the hash of a commit of a\/b but received "\.\.\//],
    "a hash that is a path": [withFirst({ oid: "../../../../out" }), /the hash of vocab\.json of a\/b/],
    "a large file's hash that is a path": [withFirst({ lfs: { oid: "/tmp/out", size: 2 } }), /the hash of vocab\.json/],
    "a size that is none": [withFirst({ size: -1 }), /the size of vocab\.json of a\/b but received -1/],
    "a path that is none": [withFirst({ path: 7 }), /Expected paths in the list of the files of a\/b but received 7/],
    "a file longer than it says": [
      {
        content: (response) => {
          const more = (): void => void response.write(Buffer.alloc(2 ** 16), more);
          response.on("error", () => undefined);
          more();
        },
      },
      /Expected 2 bytes for vocab\.json but received \d+; the download was discarded/,
    ],
    "a redirect into a file": [{ location: "file:///etc/hostname" }, /received a redirect to "file:/],
    "a redirect to nowhere": [{ location: "http://[" }, /received a redirect to "http:\/\/\["/],
  };
  for (const [what, [answers, message]] of Object.entries(cases)) {
    test(what, { timeout: 60_000 }, async () => {
      const { folder, error } = await from(answers);
      assert.match(error.message, message);
      assert.equal(error.name, "HubError");
      assert.deepEqual(readdirSync(folder), existsSync(join(folder, "some")) ? ["some"] : []);
    });
  }
});

test("a list that goes on at another host is followed without the token, and one without an end is not", async () => {
  const tokens: (string | undefined)[] = [];
  const page = (response: ServerResponse, path: string): void =>
    void response.end(JSON.stringify([{ type: "file", path, size: 2, oid: "0".repeat(40) }]));
  const elsewhere = createServer(({ headers: { authorization } }, response) => {
    tokens.push(authorization);
    page(response, "merges.txt");
  });
  let next = (): string => `${urlOf(elsewhere)}/rest`;
  const first = createServer(({ url = "", headers: { authorization } }, response) => {
    tokens.push(authorization);
    if (url.includes("/revision/"))
      return void response.end(JSON.stringify({ _id: "1", id: "a/b", sha: "0".repeat(40) }));
    if (!url.includes("/tree/")) return void response.end("{}");
    response.setHeader("link", `<${next()}>; rel="next"`);
    page(response, "vocab.json");
  });
  const urlOf = (server: Server): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  for (const server of [first, elsewhere]) await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  try {
    process.env["HF_ENDPOINT"] = urlOf(first);
    process.env["HF_TOKEN"] = "hf_secret";
    const wanted = { purpose: "tokenizer", cache, firstDelay: 1 } as const;
    assert.deepEqual(filesIn(await downloadModel("a/b", wanted)), ["merges.txt", "vocab.json"]);
    assert.deepEqual(tokens.slice(0, 3), ["Bearer hf_secret", "Bearer hf_secret", undefined]);
    for (const name of [() => "again", () => `page-${tokens.length}`]) {
      next = () => `${urlOf(first)}/api/models/a/b/tree/${name()}`;
      const endless = downloadModel("a/b", { ...wanted, cache: join(cache, "other") });
      await assert.rejects(endless, /Expected a list of the files of a\/b but received one without an end/);
    }
  } finally {
    for (const server of [first, elsewhere]) {
      server.closeAllConnections();
      await new Promise((done) => server.close(done));
    }
  }
});

test("the token is for the hub and not for its store", async () => {
  process.env["HF_TOKEN"] = "hf_secret";
  await downloadModel("someone/gated", { cache });
  for (const { server, token } of hub.requests) assert.equal(token, server === "hub" ? "hf_secret" : undefined);
  assert(hub.requests.some(({ server }) => server === "store"));
});

test("what the environment names as a proxy is gone through, but for NO_PROXY", async () => {
  const asked: string[] = [];
  // Knows no name: whatever host is asked for is this machine.
  const proxy = createServer().on("connect", ({ url }, socket: Socket) => {
    asked.push(url!);
    const upstream = connect(Number(url!.split(":").at(-1)), "127.0.0.1", () => {
      socket.write("HTTP/1.1 200 Connection established\r\n\r\n");
      upstream.pipe(socket).pipe(upstream);
    });
    for (const [end, other] of [[socket, upstream] as const, [upstream, socket] as const]) {
      end.on("error", () => other.destroy());
    }
  });
  await new Promise<void>((done) => proxy.listen(0, "127.0.0.1", done));
  const { port } = new URL(hub.url);
  const variables = {
    HF_ENDPOINT: `http://hub.invalid:${port}`,
    HF_HUB_CACHE: cache,
    HTTP_PROXY: `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`,
    NO_PROXY: "127.0.0.1", // where the store is
  };
  const { code, stderr } = await b2With(variables, "download", name);
  proxy.close();
  assert.equal(code, 0, stderr);
  assert(existsSync(join(cachedModel(name, { cache })!, weights)));
  assert.deepEqual(new Set(asked), new Set([`hub.invalid:${port}`]));
  assert(hub.requests.some(({ server }) => server === "store"));
});

test("names", () => {
  assert.deepEqual(parseHubName("a/b"), { repository: "a/b", revision: undefined, file: undefined });
  assert.deepEqual(parseHubName("a/b@v1.0"), { repository: "a/b", revision: "v1.0", file: undefined });
  assert.deepEqual(parseHubName("a/b@refs/pr/7/c/d.safetensors"), {
    ...{ repository: "a/b", revision: "refs/pr/7", file: "c/d.safetensors" },
  });
  for (const text of [
    "a",
    "/a/b",
    "./a/b",
    "../a",
    "a/../b.safetensors",
    "a/b.safetensors",
    "a b/c",
    "a/b@",
    "a/b@..",
  ]) {
    assert.equal(parseHubName(text), undefined, text);
  }
});

test("variables mean what they mean to Python's huggingface_hub", () => {
  const home = homedir();
  assert.equal(hubCache({}), join(home, ".cache/huggingface/hub"));
  assert.equal(hubCache({ XDG_CACHE_HOME: "/x" }), "/x/huggingface/hub");
  assert.equal(hubCache({ XDG_CACHE_HOME: "/x", HF_HOME: "~/y" }), join(home, "y/hub"));
  assert.equal(hubCache({ HF_HOME: "/y", HF_HUB_CACHE: "$SCRATCH/z", SCRATCH: "/s" }), "/s/z");
  assert.equal(hubCache({ HF_HUB_CACHE: "", HF_HOME: "" }), join(home, ".cache/huggingface/hub"), "empty is unset");
  const file = join(scratch, "token");
  writeFileSync(file, "hf_file\n");
  assert.equal(hubToken({ HF_TOKEN: " hf_a\n", HF_TOKEN_PATH: file }), "hf_a");
  assert.equal(hubToken({ HF_TOKEN: "", HF_TOKEN_PATH: file }), "hf_file");
  assert.equal(hubToken({ HF_HOME: scratch }), "hf_file");
  assert.equal(hubEndpoint({ HF_ENDPOINT: "" }), "https://huggingface.co");
  assert.equal(hubEndpoint({ HF_ENDPOINT: "https://mirror/hf/" }), "https://mirror/hf");
  for (const name of ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"]) {
    for (const [value, offline] of Object.entries({ "1": true, True: true, "0": false, "": false })) {
      assert.equal(isOffline({ [name]: value }), offline, `${name}=${value}`);
    }
  }
});
