/**
 * The rewards that score with a CLIP: every layout of its files gives the same numbers, each reward its own scale, half
 * precision nearly the same, and models are shared, move and are counted.
 */
import assert from "node:assert/strict";
import { copyFileSync, cpSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { dryRun } from "../src/b2/dry-run.js";
import { Policy } from "../src/b2/index.js";
import { weightMemory } from "../src/b2/memory/index.js";
import { CLIPModel } from "../src/models/index.js";
import { Clip, RewardResources, RewardSet, type Placement, type WeightedReward } from "../src/rewards/index.js";
import { loadSafetensors, saveSafetensors } from "../src/safetensors/index.js";
import { loadOpenClip, readOpenClipConfig } from "../src/single-file/index.js";
import {
  cat,
  computeProblem,
  Generator,
  liveTensors,
  nativeBytes,
  rand,
  tidy,
  type Device,
  type Tensor,
} from "../src/torch/index.js";
import { fixtures, temporaryFolder } from "./support/folders.js";
import { tinyConfig } from "./support/tiny.js";

const META = "meta" as Device; // libtorch's device without memory, which is not one that the library offers

const TOKENIZER = ["vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"];

/** A CLIP in transformers' layout, with its tokenizer. */
function transformersFolder(): string {
  const folder = temporaryFolder();
  cpSync(join(fixtures, "sd1/clip"), folder, { recursive: true });
  for (const name of TOKENIZER) copyFileSync(join(fixtures, "sd1/tokenizer", name), join(folder, name));
  return folder;
}

const CLIP = transformersFolder();

/** The same without one of its files. */
function folderWithout(name: string): string {
  const folder = transformersFolder();
  rmSync(join(folder, name));
  return folder;
}

/** OpenCLIP's config of the same model. */
const OPEN_CLIP = {
  model_cfg: {
    embed_dim: 24,
    quick_gelu: true,
    vision_cfg: { image_size: 32, layers: 2, width: 48, head_width: 12, patch_size: 8, mlp_ratio: 2 },
    text_cfg: { context_length: 77, vocab_size: 671, width: 32, heads: 4, layers: 2, mlp_ratio: 2 },
  },
  preprocess_cfg: { mean: [0.48145466, 0.4578275, 0.40821073], std: [0.26862954, 0.26130258, 0.27577711] },
};

const TOP: Readonly<Record<string, string>> = {
  logit_scale: "logit_scale",
  "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
  "text_model.embeddings.position_embedding.weight": "positional_embedding",
  "text_model.final_layer_norm.weight": "ln_final.weight",
  "text_model.final_layer_norm.bias": "ln_final.bias",
  "vision_model.embeddings.class_embedding": "visual.class_embedding",
  "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
  "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
  "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
  "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
  "vision_model.post_layernorm.weight": "visual.ln_post.weight",
  "vision_model.post_layernorm.bias": "visual.ln_post.bias",
};

const LAYER: Readonly<Record<string, string>> = {
  "self_attn.out_proj": "attn.out_proj",
  layer_norm1: "ln_1",
  layer_norm2: "ln_2",
  "mlp.fc1": "mlp.c_fc",
  "mlp.fc2": "mlp.c_proj",
};

/** Writes the model's weights with OpenCLIP's keys. */
function writeOpenClip(file: string, prefix = ""): void {
  tidy(() => {
    const own = loadSafetensors(join(CLIP, "model.safetensors"));
    const at = (key: string): Tensor => own.get(key)!;
    const stored = new Map<string, Tensor>();
    for (const [key, name] of Object.entries(TOP)) stored.set(name, at(key));
    stored.set("text_projection", at("text_projection.weight").transpose(0, 1));
    stored.set("visual.proj", at("visual_projection.weight").transpose(0, 1));
    for (const [tower, name] of [
      ["text_model", ""],
      ["vision_model", "visual."],
    ] as const) {
      for (const layer of [0, 1]) {
        const [from, to] = [`${tower}.encoder.layers.${layer}`, `${name}transformer.resblocks.${layer}`];
        for (const end of ["weight", "bias"]) {
          const thirds = ["q", "k", "v"].map((one) => at(`${from}.self_attn.${one}_proj.${end}`));
          stored.set(`${to}.attn.in_proj_${end}`, cat(thirds));
          for (const [own, theirs] of Object.entries(LAYER))
            stored.set(`${to}.${theirs}.${end}`, at(`${from}.${own}.${end}`));
        }
      }
    }
    saveSafetensors(file, new Map([...stored].map(([key, tensor]) => [prefix + key, tensor] as const)));
  });
}

/** A CLIP in OpenCLIP's layout. */
function openClipFolder({
  weights = "open_clip_model.safetensors",
  tokenizer = true,
  config = OPEN_CLIP,
  prefix = "",
}: { weights?: string; tokenizer?: boolean; config?: object | null; prefix?: string } = {}): string {
  const folder = temporaryFolder();
  writeOpenClip(join(folder, weights), prefix);
  if (config !== null) writeFileSync(join(folder, "open_clip_config.json"), JSON.stringify(config));
  if (tokenizer) for (const name of TOKENIZER) copyFileSync(join(CLIP, name), join(folder, name));
  return folder;
}

const prompts = ["a cat", "red apple", "a cat riding a bike"];
const images = rand([3, 3, 40, 56], { generator: new Generator(0) });

type Named = { name: string } & Partial<WeightedReward>;

const open = (named: Named[], resources: RewardResources): Promise<RewardSet> =>
  RewardSet.open(
    named.map((one): WeightedReward => ({ weight: 1, label: null, ...one })),
    resources,
  );

/** The scores of one reward, opened as a config would have it. */
async function scores(named: Named): Promise<readonly number[]> {
  const resources = new RewardResources("cpu");
  try {
    const set = await open([named], resources);
    return (await set.score(images, prompts)).total;
  } finally {
    resources.dispose();
  }
}

const near = (actual: readonly number[], expected: readonly number[], bound: number): void => {
  assert.equal(actual.length, expected.length);
  actual.forEach((value, i) => assert.ok(Math.abs(value - expected[i]!) <= bound, `${value} for ${expected[i]}`));
};

test("a CLIP scores the same in every layout of its files", async () => {
  const expected = await scores({ name: "clip-score", model: CLIP });
  assert.ok(new Set(expected).size === 3 && expected.every((score) => Math.abs(score) < 1));
  const alone = join(
    openClipFolder({ tokenizer: false, config: null, prefix: "model." }),
    "open_clip_model.safetensors",
  );
  const renamed = join(folderWithout("model.safetensors"), "other.safetensors");
  copyFileSync(join(CLIP, "model.safetensors"), renamed);
  const same: Named[] = [
    { name: "clip-score", model: join(CLIP, "model.safetensors") },
    { name: "clip-score", model: renamed },
    { name: "clip-score", model: openClipFolder() },
    { name: "clip-score", model: openClipFolder({ weights: "open_clip_pytorch_model.safetensors" }) },
    { name: "clip-score", model: join(openClipFolder(), "open_clip_model.safetensors") },
    { name: "clip-score", model: openClipFolder({ tokenizer: false }), processor: CLIP },
    { name: "clip-score", model: alone, processor: CLIP },
    { name: "hps", model: alone, processor: CLIP },
    ...["config.json", "preprocessor_config.json", "vocab.json"].map((part) => {
      return { name: "clip-score", model: folderWithout(part), processor: CLIP };
    }),
  ];
  for (const named of same) near(await scores(named), expected, 1e-6);
});

test("PickScore has two scales, exact in half precision too", async () => {
  const cosines = await scores({ name: "clip-score", model: CLIP });
  const logitScale = tidy(() => Math.exp(loadSafetensors(join(CLIP, "model.safetensors")).get("logit_scale")!.item()));
  near(
    await scores({ name: "pick-score", model: CLIP }),
    cosines.map((cosine) => cosine * logitScale),
    1e-5,
  );
  near(
    await scores({ name: "pick-score", model: CLIP, scale: "flow-grpo" }),
    cosines.map((cosine) => (cosine * logitScale) / 26),
    1e-5,
  );
  const half = Clip.fromPretrained(CLIP, { dtype: "bfloat16" });
  assert.equal(half.logitScale, logitScale);
  half.dispose();
});

test("the aesthetic score is the head of the image's features, whatever the prompt", async () => {
  const folder = join(fixtures, "rewards/aesthetic");
  const expected = tidy(() => {
    const head = loadSafetensors(join(folder, "model.safetensors"));
    const clip = Clip.fromPretrained(CLIP);
    const rated = [0, 2, 4, 6, 7].reduce(
      (x, i) => x.matmul(head.get(`layers.${i}.weight`)!.transpose(0, 1)).add(head.get(`layers.${i}.bias`)!),
      clip.imageFeatures(images),
    );
    clip.dispose();
    return rated.toArray();
  });
  for (const head of [folder, join(folder, "model.safetensors")]) {
    near(await scores({ name: "aesthetic", model: CLIP, head }), expected, 1e-5);
  }
});

test("JPEG's compressibility and its opposite", async () => {
  const compressible = await scores({ name: "jpeg-compressibility", quality: 50 });
  const incompressible = await scores({ name: "jpeg-incompressibility", quality: 50 });
  assert.ok(incompressible.every((kilobytes) => kilobytes > 0));
  assert.deepEqual(
    compressible.map((score) => -score),
    incompressible,
  );
});

test("what a CLIP or a head lacks is said in one sentence", async () => {
  const pickled = openClipFolder();
  renameSync(join(pickled, "open_clip_model.safetensors"), join(pickled, "open_clip_pytorch_model.bin"));
  const odd = (path: [section: "vision_cfg" | "text_cfg", key: string], value: unknown): string => {
    const { model_cfg } = OPEN_CLIP;
    const [section, key] = path;
    return openClipFolder({
      config: { model_cfg: { ...model_cfg, [section]: { ...model_cfg[section], [key]: value } } },
    });
  };
  const small = temporaryFolder();
  tidy(() => saveSafetensors(join(small, "model.safetensors"), new Map([["layers.0.weight", rand([1, 24])]])));
  const truncated = openClipFolder();
  tidy(() => {
    const all = loadSafetensors(join(truncated, "open_clip_model.safetensors"));
    all.delete("visual.ln_post.bias");
    saveSafetensors(join(truncated, "open_clip_model.safetensors"), new Map([...all, ["visual.extra", rand([2])]]));
  });
  const wide = temporaryFolder();
  tidy(() => {
    const [file, other] = ["rewards/aesthetic/model.safetensors", join(wide, "model.safetensors")];
    saveSafetensors(other, loadSafetensors(join(fixtures, file)).set("layers.0.weight", rand([32, 25])));
  });
  const head = join(fixtures, "rewards/aesthetic");
  const wrong: [Named, RegExp][] = [
    [
      { name: "clip-score", model: folderWithout("preprocessor_config.json") },
      /Expected a height and a width of 32, the image_size of the model's vision_config/,
    ],
    [
      { name: "clip-score", model: folderWithout("vocab.json") },
      /Expected a tokenizer \(vocab.json and merges.txt\) with .* name a CLIP that has one as the reward's processor/,
    ],
    [
      { name: "clip-score", model: folderWithout("config.json") },
      /Expected config.json with .* but received neither there nor in a processor/,
    ],
    [
      { name: "clip-score", model: openClipFolder({ config: null }) },
      /Expected open_clip_config.json or config.json with/,
    ],
    [{ name: "clip-score", model: folderWithout("model.safetensors") }, /Expected model.safetensors in/],
    [
      { name: "clip-score", model: pickled },
      /received .*open_clip_pytorch_model.bin, a pickle, which can run any code/,
    ],
    [
      { name: "clip-score", model: odd(["vision_cfg", "layers"], [3, 4, 6, 3]) },
      /open_clip_config.json: model_cfg.vision_cfg: Expected .* for layers but received \[3,4,6,3\]/,
    ],
    [{ name: "clip-score", model: odd(["vision_cfg", "pool_type"], "avg") }, /for pool_type but received "avg"/],
    [
      { name: "clip-score", model: odd(["text_cfg", "hf_model_name"], "xlm-roberta-base") },
      /for hf_model_name but received "xlm-roberta-base"/,
    ],
    [
      { name: "clip-score", model: odd(["text_cfg", "surprise"], 1) },
      /model_cfg.text_cfg: Expected no key surprise but received 1/,
    ],
    [{ name: "clip-score", model: odd(["vision_cfg", "width"], 60) }, /visual\.\S+: Expected/],
    [{ name: "clip-score", model: truncated }, /visual\.ln_post\.bias[^]*visual\.extra/],
    [{ name: "aesthetic", model: CLIP, head: small }, /Expected the layers 0, 2, 4, 6 and 7 of an aesthetic head/],
    [
      { name: "aesthetic", model: CLIP, head: wide },
      /Expected a head for the 24 features of .* but received one for 25/,
    ],
    [
      { name: "aesthetic", model: CLIP, head: join(head, "sac+logos+ava1-l14-linearMSE.pth") },
      /a pickle, which can run any code/,
    ],
  ];
  const live = liveTensors();
  for (const [named, error] of wrong) await assert.rejects(scores(named), error);
  assert.ok(liveTensors() <= live);
});

test("HPS's own pickles are refused with a safetensors source, before anything is downloaded", () => {
  for (const model of ["xswu/HPSv2", "xswu/HPSv2@main", "weights/HPS_v2.1_compressed.pt"]) {
    assert.throws(
      () => tinyConfig({ rewards: [{ name: "hps", model }] }),
      /Expected safetensors weights, such as RE-N-Y\/hpsv21\/model.safetensors .* for rewards.0.model but received/,
    );
  }
});

/** Largest 1 - cosine of features, and largest deviation of a score; measured were 1e-4 and 2.5e-3 (libtorch 2.13). */
const BFLOAT16 = { features: 2e-4, score: 5e-3 };

test("bfloat16 gives nearly the features of float32, of length 1 in float32", async () => {
  const [whole, half] = [Clip.fromPretrained(CLIP), Clip.fromPretrained(CLIP, { dtype: "bfloat16" })];
  tidy(() => {
    for (const features of [(clip: Clip) => clip.imageFeatures(images), (clip: Clip) => clip.textFeatures(prompts)]) {
      const [exact, rounded] = [features(whole), features(half)];
      assert.equal(rounded.dtype, "float32");
      assert.ok(rounded.norm({ dim: 1 }).sub(1).abs().amax().item() < 1e-6);
      assert.ok(!rounded.equal(exact));
      const off = 1 - exact.mul(rounded).sum({ dim: 1 }).amin().item();
      assert.ok(off < BFLOAT16.features, `${off}`);
    }
  });
  whole.dispose();
  half.dispose();
  const score = (dtype: string) => scores({ name: "clip-score", model: CLIP, dtype });
  near(await score("bfloat16"), await score("float32"), BFLOAT16.score);
});

test("a format that this libtorch does not compute in is refused when the model is opened", async () => {
  const half = (): Promise<readonly number[]> => scores({ name: "clip-score", model: CLIP, dtype: "float16" });
  if (computeProblem("cpu", "float16") === undefined) {
    near(await half(), await scores({ name: "clip-score", model: CLIP }), BFLOAT16.score);
  } else {
    await assert.rejects(half(), /Expected a device and a dtype that libtorch .* but received cpu and float16: aten::/);
  }
});

test("in half precision a CLIP in OpenCLIP's layout takes no more memory than its weights", () => {
  const folder = openClipFolder();
  const source = join(folder, "open_clip_config.json");
  const { model: config } = readOpenClipConfig(source);
  const before = nativeBytes();
  const model = loadOpenClip(join(folder, "open_clip_model.safetensors"), { config, source }, { dtype: "bfloat16" });
  // The allocator rounds each of the tensors up.
  assert.ok(nativeBytes() - before < 2 * model.parameterCount() + 64 * model.parameters().size);
  model.dispose();
});

test("a model that moves leaves nothing behind, and is the same object for its layers", () => {
  const model = CLIPModel.fromPretrained(CLIP, { dtype: "bfloat16" }); // float32 would stay in the mapped file
  const [first] = model.parameters().values();
  first!.requiresGrad_();
  const [bytes, live] = [nativeBytes(), liveTensors()];
  model.to_("cpu");
  assert.equal(nativeBytes(), bytes);
  model.to_(META);
  for (const [key, parameter] of model.parameters()) assert.equal(parameter.device, META, key);
  assert.equal(model.logitScale.device, META);
  assert.equal([...model.parameters().values()][0], first);
  assert.ok(first!.requiresGrad);
  assert.equal(liveTensors(), live);
  assert.ok(bytes - nativeBytes() >= 2 * model.parameterCount());
  model.dispose();
});

test("a CLIP that moves takes the features of known texts along", () => {
  const clip = Clip.fromPretrained(CLIP);
  const live = liveTensors();
  tidy(() => {
    clip.textFeatures(prompts);
    clip.moveTo(META);
    assert.equal(clip.device, META);
    assert.equal(clip.textFeatures(prompts).device, META);
  });
  assert.equal(liveTensors(), live + prompts.length);
  clip.dispose();
});

test("rewards share a CLIP by folder, device and format; a measure takes one that is there", () => {
  const resources = new RewardResources("cpu");
  const placement: Placement = { device: null, dtype: "float32", offload: false };
  const half = resources.clip(CLIP, { ...placement, dtype: "bfloat16" });
  assert.equal(resources.clip(CLIP), half);
  const whole = resources.clip(CLIP, placement);
  assert.notEqual(whole, half);
  assert.equal(resources.clip(CLIP, { ...placement, device: "cpu", offload: true }), whole);
  // It has all that a processor would give.
  assert.equal(resources.clip(CLIP, placement, "/no/such/processor"), whole);
  const bare = openClipFolder({ tokenizer: false });
  const other = transformersFolder();
  const [one, again, another] = [CLIP, CLIP, other].map((processor) => resources.clip(bare, placement, processor));
  assert.equal(one, again);
  assert.notEqual(one, another);
  assert.throws(
    () => resources.clip(CLIP, { ...placement, device: "cuda:99" }),
    /Expected a device and a dtype that libtorch \S+ computes with for .* but received cuda:99 and float32: /,
  );
  resources.dispose();
});

test("a model that all agree to offload is on its device while it is used, and else on the CPU", async () => {
  const offloaded: Placement = { device: META, dtype: "float32", offload: true };
  const resources = new RewardResources("cpu");
  const at: Device[] = [];
  const load = (_: string, { device }: { readonly device: Device }) => {
    at.push(device);
    return { moveTo: (to: Device) => void at.push(to), dispose: () => undefined };
  };
  resources.shared("test", CLIP, offloaded, load);
  assert.deepEqual(at, ["cpu"]);
  await resources.using(async () => {
    assert.equal(at.at(-1), META);
    await resources.using(() => Promise.resolve());
    assert.equal(at.at(-1), META, "until the last one is done");
  });
  assert.equal(at.at(-1), "cpu");
  await assert.rejects(
    resources.using(() => Promise.reject(new Error("broken"))),
    /broken/,
  );
  assert.deepEqual(at.slice(-2), [META, "cpu"], "whatever happens");
  resources.shared("test", CLIP, { ...offloaded, offload: false }, load);
  assert.equal(at.at(-1), META, "one of them wants it to stay");
  const moves = at.length;
  await resources.using(() => Promise.resolve());
  resources.shared("test", CLIP, offloaded, load);
  assert.equal(at.length, moves);
  resources.dispose();
});

test("--dry-run counts the weights of every device, while scoring and while training", () => {
  const clips = (...more: object[]) =>
    more.map((one, i) => ({ name: "clip-score", label: `clip ${i}`, model: CLIP, ...one }));
  const clip = CLIPModel.fromPretrained(CLIP);
  const size = clip.parameterCount();
  clip.dispose();
  const policy = Policy.forTraining(tinyConfig());
  const parts = Object.values(policy.model.modules).map((part) => part?.parameterCount() ?? 0);
  const all = parts.reduce((total, count) => total + count);
  const denoiser = policy.model.denoiser.parameterCount();
  const lora = [...policy.parameters.values()].reduce((total, { numel }) => total + numel, 0);
  const single = join(temporaryFolder(), "single.safetensors");
  policy.model.saveSingleFile!(single);
  policy.dispose();

  const held = (...layers: object[]) =>
    Object.fromEntries(weightMemory(tinyConfig({ rewards: ["brightness"] }, ...layers)).devices);
  const alike = (bytes: number) => ({ scoring: bytes, training: bytes });
  const trained = 4 * all + 16 * lora;
  assert.deepEqual(held(), { cpu: alike(trained) });
  assert.deepEqual(held({ model: { path: single } }), { cpu: alike(trained) });
  assert.deepEqual(held({ model: { dtype: "bfloat16" } }), { cpu: alike(2 * all + 16 * lora) });
  assert.deepEqual(held({ lora: { rank: 8 }, train: { ema: 0.9 } }), { cpu: alike(4 * all + 2 * lora * 20) });
  const full = { train: { parameters: "full" } };
  assert.deepEqual(held(full), { cpu: alike(4 * (all - denoiser) + 16 * denoiser) });
  assert.deepEqual(held(full, { objective: { name: "ppo", kl: 0.1 } }), {
    cpu: alike(4 * (all - denoiser) + 20 * denoiser),
  });

  // One CLIP for two rewards and the measure; another in half precision.
  const shared = clips({}, {}, { dtype: "bfloat16" });
  const measured = { eval: { enabled: true, clip: CLIP } };
  assert.deepEqual(held({ rewards: shared }, measured), { cpu: alike(trained + 6 * size) });
  assert.deepEqual(held(measured), { cpu: alike(trained + 4 * size) });
  // The tokenizer's CLIP has no weights in memory.
  const [bare, head] = [openClipFolder({ tokenizer: false }), join(fixtures, "rewards/aesthetic")];
  const hps = { name: "hps", model: join(bare, "open_clip_model.safetensors"), processor: CLIP };
  assert.deepEqual(held({ rewards: [hps] }), { cpu: alike(trained + 4 * size) });
  const rated = [24, 32, 16, 8, 4].reduce((sum, from, i, widths) => sum + (from + 1) * (widths[i + 1] ?? 1), 0);
  const aesthetic = { name: "aesthetic", model: CLIP, head };
  assert.deepEqual(held({ rewards: [aesthetic] }), { cpu: alike(trained + 4 * (size + rated)) });
  const half = { ...aesthetic, dtype: "bfloat16" };
  assert.deepEqual(held({ rewards: [half] }), { cpu: alike(trained + 2 * size + 4 * rated) });
  // On another device, offloaded if all agree.
  const there = { device: "cuda:1", offload: true };
  const on = (away: boolean) => held({ rewards: clips(there, { ...there, offload: away }) });
  assert.deepEqual(on(true), {
    cpu: { scoring: trained, training: trained + 4 * size },
    "cuda:1": { scoring: 4 * size, training: 0 },
  });
  assert.deepEqual(on(false), { cpu: alike(trained), "cuda:1": alike(4 * size) });

  const absent = { rewards: [{ name: "pick-score", model: "nobody/pick", processor: "nobody/else" }] };
  const text = dryRun(tinyConfig(absent, { model: { device: "cuda" } }));
  const megabytes = Math.ceil(trained / 1e6);
  assert.ok(
    text.includes(
      `weights in memory: at most ${megabytes} MB on cuda while scoring, ${megabytes} MB while training\n` +
        "weights in memory without those of nobody/pick, to be downloaded\n",
    ),
    text,
  );
  assert.match(dryRun(tinyConfig({ rewards: [hps] })), /^ {2}\S+: tokenizer and configs in \S+$/m);
});
