/** The reward bert-score: captions from a server on this machine, compared with prompts, against golden scores. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import sharp from "sharp";
import { Interrupted } from "../src/base/errors.js";
import {
  bertScore,
  bertScoreOf,
  plainWeights,
  RewardResources,
  rewards,
  RewardSet,
  TokenMatcher,
} from "../src/rewards/index.js";
import { deviceCount, full, liveTensors, stack, tidy, type Tensor } from "../src/torch/index.js";
import { temporaryFolder } from "./support/folders.js";
import { goldenSets } from "./support/golden.js";
import { json, silence, TestServer, type Handler } from "./support/servers.js";

/** What a server is asked. */
interface Chat {
  readonly model: string;
  readonly temperature: number;
  readonly messages: readonly [{ readonly content: readonly [{ image_url: { url: string } }, { text: string }] }];
}

/** The image of a caption: its number as a shade of grey. */
const imageOf = (caption: number): Tensor => full([3, 8, 8], caption / 255);

/** A vision-language model that knows a picture's caption by its shade. */
const captioning =
  (captions: readonly string[]): Handler =>
  async (body, response, request) => {
    const [{ image_url: image }] = chatOf(body).messages[0].content;
    const pixels = await sharp(Buffer.from(image.url.split(",")[1]!, "base64"))
      .raw()
      .toBuffer();
    const content = `${captions[pixels[0]!]}\n`;
    await json({ choices: [{ message: { role: "assistant", content } }] })(body, response, request);
  };

const chatOf = (body: Buffer): Chat => JSON.parse(body.toString("utf8")) as Chat;

const sets = (["roberta", "deberta"] as const).flatMap((kind) =>
  goldenSets(kind, "io.safetensors").map((set) => [kind, set] as const),
);

for (const [kind, set] of sets) {
  const { pairs, layer } = set.json<{ pairs: [string, string][]; layer: number }>(kind, "expected.json");
  // A server that says nothing has not answered.
  const some = pairs.flatMap(([reference, caption], i) => (caption === "" ? [] : [{ reference, caption, i }]));
  const golden = (key: string, column: number): number[] => {
    const rows = set.tensors(kind, "io.safetensors").get(key).toNestedArray() as number[][];
    return some.map(({ i }) => rows[i]![column]!);
  };

  describe(`the reward bert-score, ${kind} of golden ${set.name}`, () => {
    let server: TestServer;
    before(async () => {
      server = await TestServer.start(captioning(some.map(({ caption }) => caption)));
    });
    after(() => server.stop());

    const scoresWith = async (options: object, resources = new RewardResources("cpu")): Promise<readonly number[]> => {
      const named = {
        ...{ name: "bert-score", weight: 1, label: null, model: set.path(kind), layer, template: "{prompt}" },
        ...{ url: `${server.url}/v1`, captionModel: "some-model", ...options },
      };
      const opened = await RewardSet.open([named], resources);
      const images = tidy(() => stack(some.map((_, i) => imageOf(i))));
      const { total } = await opened.score(
        images,
        some.map(({ reference }) => reference),
      );
      images.dispose();
      opened.dispose();
      resources.dispose();
      return total;
    };
    const assertScores = (scores: readonly number[], expected: readonly number[]): void =>
      scores.forEach((score, i) => assert(Math.abs(score - expected[i]!) <= 1e-5, `pair ${i}: ${score}`));

    test("recall, precision and F1 of the server's captions", async () => {
      const expected = { precision: golden("prf", 0), recall: golden("prf", 1), f1: golden("prf", 2) };
      const live = liveTensors();
      assertScores(await scoresWith({}), expected.recall);
      for (const measure of ["precision", "recall", "f1"] as const) {
        assertScores(await scoresWith({ measure }), expected[measure]);
      }
      assert(liveTensors() <= live);
      const { model, temperature, messages } = chatOf(server.bodies[0]!);
      assert.equal(server.paths[0], "/v1/chat/completions");
      assert.deepEqual([model, temperature], ["some-model", 0]);
      assert.equal(messages[0].content[1].text, "Answer concisely: what is going on in this image?");
    });

    test("idf over the prompts of a file, in each of its forms", async () => {
      const file = join(temporaryFolder(), "prompts");
      const references = pairs.map(([reference]) => reference);
      const forms = [
        JSON.stringify(references),
        references.map((prompt) => JSON.stringify({ prompt, tag: "counting" })).join("\n"),
        `${references.join("\n")}\n`,
      ];
      for (const text of forms) {
        writeFileSync(file, text);
        assertScores(await scoresWith({ idf: file }), golden("prf_idf", 1));
      }
    });

    for (const device of ["cuda", "mps"] as const) {
      const skip = deviceCount(device) > 0 ? false : `no ${device} here`;
      test(`the model and what is cached move to ${device} and back`, { skip }, () => {
        const matcher = TokenMatcher.fromPretrained(set.path(kind), { layer });
        const f1 = () =>
          some.map(({ caption, reference }) => bertScoreOf(matcher.match(caption, reference), plainWeights([])).f1);
        const before = f1();
        matcher.moveTo(device);
        f1().forEach((score, i) => assert(Math.abs(score - before[i]!) <= 1e-4));
        matcher.moveTo("cpu");
        assert.deepEqual(f1(), before);
        matcher.dispose();
      });
    }

    test("a score does not depend on the other images, to the last bit", async () => {
      const matcher = TokenMatcher.fromPretrained(set.path(kind), { layer });
      const ask = (captions: string[]) => {
        const captioner = { caption: () => Promise.resolve(captions) };
        return bertScore(matcher, captioner, { template: "The image contains {prompt}", measure: "f1" });
      };
      const images = tidy(() => stack(some.map((_, i) => imageOf(i))));
      const captions = some.map(({ caption }) => caption);
      const prompts = some.map(({ reference }) => reference);
      const all = await ask(captions).score(images, prompts);
      for (const [i, caption] of captions.entries()) {
        assert.deepEqual(await ask([caption]).score(images, [prompts[i]!]), [all[i]]);
      }
      images.dispose();
      matcher.dispose();
    });
  });
}

const [[kind, set]] = sets as [(typeof sets)[number]];

describe("what can be wrong with the reward bert-score", () => {
  const named = { name: "bert-score", weight: 1, label: null, model: set.path(kind), captionModel: "m" };
  const open = (options: object) => RewardSet.open([{ ...named, ...options }], new RewardResources("cpu"));

  test("options", async () => {
    await assert.rejects(open({}), /Expected the option layer for the model .*, for which the table .* has none/);
    await assert.rejects(open({ layer: 9 }), /config\.json: Expected at most num_hidden_layers, 4, for layer/);
    await assert.rejects(open({ layer: 1, template: "a photo" }), /Expected a text with \{prompt\}/);
    await assert.rejects(open({ layer: 1, idf: "/none/prompts.txt" }), /\/none\/prompts\.txt: Expected a readable/);
    await assert.rejects(open({ layer: 1, model: "/none" }), /Expected tokenizer\.json in \/none/);
  });

  test("files for idf", async () => {
    const file = join(temporaryFolder(), "prompts");
    const wrong: [string, RegExp][] = [
      ["one", /prompts: Expected at least two prompts but received 1/],
      ['["a", 5]', /prompts: Expected a text for prompt 1 but received 5/],
      ['{"prompt": "a"}\n{"text": "b"}', /prompts: Expected a text for prompt 1 but received nothing/],
      ['["a"', /prompts: Expected JSON but received/],
    ];
    for (const [text, error] of wrong) {
      writeFileSync(file, text);
      await assert.rejects(open({ layer: 1, idf: file }), error);
    }
  });

  test("is said before anything is loaded, where it can be", () => {
    const kindOf = rewards.get("bert-score");
    const problems = (options: object) => kindOf.problems!(kindOf.options.parse({ captionModel: "m", ...options }));
    assert.deepEqual(problems({}), []);
    assert.deepEqual(problems({ model: "FacebookAI/roberta-large@main" }), []);
    assert.deepEqual(problems({ model: "/models/deberta-base/" }), []);
    const all = problems({ model: "someone/else", idf: "/none", apiKey: "B2_TEST_NO_SUCH_KEY" });
    assert.equal(all.length, 3);
    assert.match(all.join("\n"), /option layer for the model someone\/else[^]*\/none[^]*B2_TEST_NO_SUCH_KEY/);
  });

  test("a server that never answers is not waited for once the run is interrupted", async () => {
    const server = await TestServer.start(silence);
    const kindOf = rewards.get("bert-score");
    const options = kindOf.options.parse({ model: set.path(kind), layer: 1, captionModel: "m", url: server.url });
    const resources = new RewardResources("cpu");
    const reward = await kindOf.open(options, resources);
    const images = tidy(() => stack([imageOf(0)]));
    const interrupt = new AbortController();
    setTimeout(() => interrupt.abort(), 50);
    await assert.rejects(async () => reward.score(images, ["a"], { signal: interrupt.signal }), Interrupted);
    reward.dispose?.();
    resources.dispose();
    images.dispose();
    await server.stop();
  });

  test("a server that is not there, and one that leaves captions out", async () => {
    const images = tidy(() => stack([imageOf(0), imageOf(1)]));
    const gone = await TestServer.start(silence);
    const { url } = gone;
    await gone.stop();
    const away = await open({ layer: 1, url, retries: 0 });
    await assert.rejects(
      async () => away.score(images, ["a", "b"]),
      new RegExp(`from ${url}/chat/completions but received no connection`),
    );
    away.dispose();
    const matcher = TokenMatcher.fromPretrained(set.path(kind), { layer: 1 });
    const short = bertScore(
      matcher,
      { caption: () => Promise.resolve(["a"]) },
      { template: "{prompt}", measure: "f1" },
    );
    await assert.rejects(
      async () => short.score(images, ["a", "b"]),
      /Expected 2 captions, one per image, but received 1/,
    );
    matcher.dispose();
    images.dispose();
  });
});
