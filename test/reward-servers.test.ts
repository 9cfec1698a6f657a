/** Rewards that ask servers, against real ones on this machine that answer well, badly, late, or not at all. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, describe, it } from "node:test";
import sharp from "sharp";
import { Interrupted } from "../src/base/errors.js";
import { optionsOf } from "../src/base/registry.js";
import { RewardError, RewardResources, rewards, type Reward } from "../src/rewards/index.js";
import { pickle, unpickle, type Picklable } from "../src/rewards/servers/pickle.js";
import { RewardServer, type Question } from "../src/rewards/servers/reward-server.js";
import type { ServerOptions } from "../src/rewards/servers/server-options.js";
import { VlmClient, type VlmOptions } from "../src/rewards/servers/vlm-client.js";
import { full, stack, tidy, type Tensor } from "../src/torch/index.js";
import { repository } from "./support/folders.js";
import { json, raw, silence, TestServer, type Handler } from "./support/servers.js";

const cleanUp: (() => unknown)[] = [];
after(async () => {
  for (const end of cleanUp) await end();
});

async function start(...handlers: readonly Handler[]): Promise<TestServer> {
  const server = await TestServer.start(...handlers);
  cleanUp.push(() => server.stop());
  return server;
}

/** Opens a reward as a config would have it. Without retries, unless they are given. */
async function open(name: string, options: Record<string, unknown>): Promise<Reward> {
  const kind = rewards.get(name);
  const reward = await kind.open(optionsOf(kind, { name, retries: 0, ...options }), new RewardResources("cpu"));
  cleanUp.push(() => reward.dispose?.());
  return reward;
}

/** Grey images, [B, 3, 16, 24], of these brightnesses. */
const greys = (...levels: readonly number[]): Tensor =>
  tidy(() => stack(levels.map((level) => full([3, 16, 24], level))));

/** The brightness of a PNG or JPEG, 0 to 1. */
async function brightnessOf(image: Uint8Array): Promise<number> {
  const { channels } = await sharp(image).stats();
  return channels.reduce((sum, { mean }) => sum + mean, 0) / channels.length / 255;
}

const close = (values: ArrayLike<number>, expected: readonly number[], tolerance = 0.01): void => {
  assert.equal(values.length, expected.length);
  expected.forEach((value, i) => assert.ok(Math.abs(values[i]! - value) < tolerance, `${values[i]} for ${value}`));
};

/** The client alone, with waits of a thousandth of a second. */
function client(url: string, options: Partial<ServerOptions> = {}): RewardServer {
  const all: ServerOptions = {
    url,
    apiKey: null,
    headers: {},
    concurrency: 8,
    requestTimeout: 60,
    retries: 3,
    cacheSize: 100,
    ...options,
  };
  const server = new RewardServer(all, { backOff: { first: 1, longest: 4 } });
  cleanUp.push(() => server.dispose());
  return server;
}

const question: Question<string> = { body: () => "?", contentType: "text/plain", read: (answer) => answer.toString() };

describe("a server that fails", () => {
  it("with 500 and comes back is asked until it answers", async () => {
    const server = await start(raw("oops", 500), raw("oops", 503), raw("busy", 429), raw("yes"));
    assert.equal(await client(server.url).post(question), "yes");
    assert.equal(server.bodies.length, 4);
  });

  it("for ever ends in a sentence with the address, the attempts and its last words", async () => {
    const server = await start(raw("Traceback (most recent call last):\n  File x\nValueError: no GPU", 500));
    await assert.rejects(client(`${server.url}/score?key=secret`).post(question), (error: Error) => {
      assert.ok(error instanceof RewardError);
      assert.match(
        error.message,
        /^Expected an answer from http:\/\/127\.0\.0\.1:\d+\/score, asked 4 times in \d+\.\d seconds, but received status 500: "ValueError: no GPU"$/,
      );
      return true;
    });
    assert.equal(server.bodies.length, 4);
  });

  it("with another status is not asked again", async () => {
    for (const [handler, words] of [
      [json({ detail: "no such model" }, 404), /but received status 404: "no such model"$/],
      [json({ error: { message: "wrong key" } }, 401), /but received status 401: "wrong key"$/],
      [raw("", 400), /but received status 400$/],
      [
        raw("", 307, { location: "http://127.0.0.1:1/" }),
        /status 307: a redirect to http:\/\/127.0.0.1:1\/, which is not/,
      ],
    ] as const) {
      const server = await start(handler);
      await assert.rejects(client(server.url).post(question), words);
      assert.equal(server.bodies.length, 1);
    }
  });

  it("is asked again when it says, and not when that is too long", async () => {
    // A wait of an hour, unless the server's own word counts.
    const patient = (url: string): RewardServer => {
      const options = { apiKey: null, headers: {}, concurrency: 1, requestTimeout: 60, retries: 3, cacheSize: 0 };
      return new RewardServer({ url, ...options }, { backOff: { first: 3_600_000, longest: 3_600_000 } });
    };
    const soon = await start(
      raw("busy", 429, { "retry-after": "0.01" }),
      raw("", 503, { "retry-after": PAST }),
      raw("yes"),
    );
    assert.equal(await patient(soon.url).post(question), "yes");
    const late = await start(raw("busy", 429, { "retry-after": "301" }));
    await assert.rejects(patient(late.url).post(question), /status 429: "busy"; it asks to wait 301 seconds$/);
    assert.equal(late.bodies.length, 1);
  });

  it("by saying nothing, at once or amid an answer, is left when the time is over", async () => {
    const stops: Handler = (_, response) => void response.writeHead(200).write("ha");
    const server = await start(silence, stops);
    const impatient = client(server.url, { requestTimeout: 0.05, retries: 1 });
    await assert.rejects(impatient.post(question), /asked 2 times .* but received none within 0.05 seconds$/);
  });

  it("late, but in time, is waited for", async () => {
    const server = await start((_, response) => void setTimeout(() => response.end("yes"), 50));
    assert.equal(await client(server.url, { retries: 0 }).post(question), "yes");
  });

  it("by half a body or a cut connection is asked again", async () => {
    const half: Handler = (_, response) => {
      response.writeHead(200, { "content-length": "1000" }).write("half");
      setTimeout(() => response.destroy(), 5);
    };
    const chunked: Handler = (_, response) => {
      response.writeHead(200).write("half");
      setTimeout(() => response.destroy(), 5);
    };
    const cut: Handler = (_, response) => void response.destroy();
    const server = await start(half, chunked, cut, raw("yes"));
    assert.equal(await client(server.url).post(question), "yes");
    const broken = await start(half);
    await assert.rejects(client(broken.url).post(question), /asked 4 times .* received a connection that was cut$/);
  });

  it("by 100 MB is left early, whether it says so before or not", async () => {
    let sent = 0;
    const piece = Buffer.alloc(2 ** 20);
    const flood =
      (headers: Record<string, string>): Handler =>
      async (_, response) => {
        response.writeHead(200, headers);
        for (sent = 0; sent < 100 && !response.destroyed; sent++) {
          if (!response.write(piece)) await Promise.race([once(response, "drain"), once(response, "close")]);
        }
        response.end();
      };
    const declared = await start(flood({ "content-length": String(100 * 2 ** 20) }));
    await assert.rejects(
      client(declared.url).post(question),
      /an answer of at most 16 MiB .* received one of 100 MiB$/,
    );
    assert.equal(declared.bodies.length, 1);
    const streamed = await start(flood({}));
    await assert.rejects(client(streamed.url).post(question), /an answer of at most 16 MiB .* received more$/);
    assert.ok(sent < 100, `${sent} MiB sent`);
  });

  it("by not being there, and comes back on its port", async () => {
    const server = await start(raw("yes"));
    const { port } = server;
    await server.stop();
    const { url } = await gone(port);
    await assert.rejects(
      client(url, { retries: 1 }).post(question),
      /asked 2 times .* no connection: nothing listens there$/,
    );
    const waiting = client(url, { retries: 1000 }).post(question);
    await server.listen(port);
    assert.equal(await waiting, "yes");
  });

  it("stops being asked when the signal aborts, in a request and between two", async () => {
    const controller = new AbortController();
    const server = await start(() => controller.abort());
    await assert.rejects(client(server.url).post(question, controller.signal), Interrupted);
    const between = new AbortController();
    const busy = await start((_, response) => {
      response.writeHead(503, { "retry-after": "200" }).end();
      setTimeout(() => between.abort(new RewardError("time is over")), 20);
    });
    await assert.rejects(client(busy.url).post(question, between.signal), /^RewardError: time is over$/);
    assert.equal(busy.bodies.length, 1);
    await assert.rejects(client(busy.url).post(question, AbortSignal.abort()), Interrupted);
    assert.equal(busy.bodies.length, 1);
  });
});

/** A date that is over. */
const PAST = "Wed, 21 Oct 2015 07:28:00 GMT";

const gone = (port: number): Promise<{ url: string }> => Promise.resolve({ url: `http://127.0.0.1:${port}` });

describe("what is sent", () => {
  it("never exceeds the concurrency", async () => {
    const server = await start((_, response) => void setTimeout(() => response.end("yes"), 5));
    const three = client(server.url, { concurrency: 3 });
    await Promise.all(Array.from({ length: 20 }, () => three.post(question)));
    assert.equal(server.bodies.length, 20);
    assert.equal(server.busiest, 3);
  });

  it("has the key and headers of environment variables, and errors do not repeat them", async () => {
    const server = await start((_, response, request) => {
      response.writeHead(403).end(`not for ${request.headers.authorization}, ${String(request.headers["x-team"])}`);
    });
    const options = { apiKey: "TEST_REWARD_KEY", headers: { "X-Team": "TEST_REWARD_TEAM" } };
    assert.throws(() => client(server.url, options), /variable TEST_REWARD_KEY, to be sent to .*, but it is not set$/);
    process.env["TEST_REWARD_KEY"] = "sk-123";
    process.env["TEST_REWARD_TEAM"] = "red-456";
    await assert.rejects(client(server.url, options).post(question), /status 403: "not for Bearer \*\*\*, \*\*\*"$/);
    const [headers] = server.headers;
    assert.deepEqual([headers!.authorization, headers!["x-team"]], ["Bearer sk-123", "red-456"]);
    const kind = rewards.get("http");
    assert.deepEqual(kind.problems!(optionsOf(kind, { name: "http", ...options })), []);
    delete process.env["TEST_REWARD_KEY"];
    assert.match(kind.problems!(optionsOf(kind, { name: "http", ...options })).join(), /TEST_REWARD_KEY/);
  });

  it("goes to no address that a run should not store, and has no key in place of a variable's name", () => {
    const { options } = rewards.get("http");
    for (const url of ["ftp://host/", "host:80", "", "http://user:word@host/"]) {
      assert.equal(options.safeParse({ url }).success, false, url);
    }
    assert.equal(options.safeParse({ apiKey: "sk-123" }).success, false);
    assert.equal(options.safeParse({ headers: { "x-key": "a b" } }).success, false);
  });
});

/** A server of our own protocol: scores are brightnesses, and a detail is the number of metadata's keys. */
const brightnessServer: Handler = async (body, response) => {
  const { images, prompts, metadata } = JSON.parse(body.toString()) as Record<string, unknown[]>;
  const scores = await Promise.all(images!.map((image) => brightnessOf(Buffer.from(image as string, "base64"))));
  const details = { words: prompts!.map((prompt) => (prompt as string).split(" ").length), keys: metadata!.map(count) };
  response.end(JSON.stringify({ scores, details }));
};
const count = (value: unknown): number => Object.keys(value as object).length;

describe("the reward http", () => {
  it("scores in batches, in the order of the images", async () => {
    const server = await start(brightnessServer);
    const reward = await open("http", { url: server.url, batchSize: 2 });
    assert.equal(reward.concurrent, true);
    const images = greys(0, 0.25, 0.5, 0.75, 1);
    const scoring = reward.score(images, ["a", "b", "c", "d", "e"]);
    images.dispose(); // the images are read at once
    close(await scoring, [0, 0.25, 0.5, 0.75, 1]);
    assert.deepEqual(
      server.bodies.map((body) => count((JSON.parse(body.toString()) as { images: [] }).images)).sort(),
      [1, 2, 2],
    );
  });

  it("takes a detail for the reward, and hands on metadata", async () => {
    const server = await start(brightnessServer);
    const call = { metadata: [{}, { a: 1, b: 2 }] };
    const keys = await open("http", { url: server.url, part: "keys" });
    assert.deepEqual(await keys.score(greys(0, 1), ["one", "two words"], call), [0, 2]);
    const words = await open("http", { url: server.url, part: "words" });
    assert.deepEqual(await words.score(greys(0, 1), ["one", "two words"], call), [1, 2]);
    const none = await open("http", { url: server.url, part: "letters" });
    await assert.rejects(
      async () => none.score(greys(0), ["a"]),
      /Expected details with letters .* \["words","keys"\]/,
    );
  });

  it("asks once for the same image, prompt and metadata", async () => {
    const server = await start(brightnessServer);
    const reward = await open("http", { url: server.url, batchSize: 1 });
    const images = greys(0.5, 0.5, 0.25);
    close(await reward.score(images, ["a", "a", "a"]), [0.5, 0.5, 0.25]);
    assert.equal(server.bodies.length, 2);
    close(await reward.score(images, ["a", "b", "a"]), [0.5, 0.5, 0.25]);
    assert.equal(server.bodies.length, 3);
    await reward.score(images, ["a", "b", "a"], { metadata: [{}, { x: 1 }, {}] });
    assert.equal(server.bodies.length, 4);
    const forgetful = await open("http", { url: server.url, batchSize: 1, cacheSize: 1 });
    // One after the other: of answers on their way together, the last to come is kept.
    for (const grey of [0.5, 0.25, 0.25]) await forgetful.score(greys(grey), ["a"]);
    assert.equal(server.bodies.length, 6);
    await forgetful.score(greys(0.5), ["a"]);
    assert.equal(server.bodies.length, 7);
  });

  it("names image and prompt of a wrong answer", async () => {
    const wrong: [Handler, RegExp][] = [
      [json({ scores: [1] }), /Expected 2 scores, one for each image, from http.* but received 1$/],
      [json({ scores: [1, 2, 3] }), /Expected 2 scores, one for each image, from http.* but received 3$/],
      [json({ scores: 1 }), /Expected 2 scores, one for each image, from http.* but received 1$/],
      [json({}), /Expected 2 scores, one for each image, from http.* but received nothing$/],
      [json([1, 2]), /Expected an object with scores from http.* but received \[1,2\]$/],
      [json({ scores: [1, "2"] }), /a finite number in scores for image 1, "a dog", from .* but received "2"$/],
      [json({ scores: [1, null] }), /a finite number in scores for image 1, "a dog", from .* but received null$/],
      [raw('{"scores": [NaN, 1]}'), /a finite number in scores for image 0, "a \\"NaN\\" cat", .* received "NaN"$/],
      [raw('{"scores": [1, -Infinity]}'), /for image 1, "a dog", from .* but received "-Infinity"$/],
      [raw('{"scores": [1, 1e999]}'), /for image 1, "a dog", from .* but received Infinity$/],
      [json({ scores: [1, 2], details: { x: [1] } }), /Expected 2 x, one for each image, from .* but received 1$/],
      [json({ scores: [1, 2], details: [] }), /Expected an object for details from .* but received \[\]$/],
      [raw("<html>"), /Expected scores from .* but received what is not JSON: "<html>"$/],
      [raw('{"scores": [1, 2'), /Expected scores from .* but received what is not JSON/],
      [raw(""), /Expected scores from .* but received nothing$/],
      [raw(`{"scores": ${"[".repeat(5000)}${"]".repeat(5000)}}`), /Expected scores from .* nested too deeply$/],
    ];
    for (const [handler, message] of wrong) {
      const server = await start(handler);
      const reward = await open("http", { url: server.url });
      await assert.rejects(async () => reward.score(greys(0, 1), ['a "NaN" cat', "a dog"]), message);
    }
    const keyed = await open("http", { url: (await start(json({ scores: [null] }))).url });
    const call = { keys: [{ group: "stage-0003/root-0012", index: 4 }] };
    await assert.rejects(
      async () => keyed.score(greys(0), ["a"], call),
      /for image 4 of stage-0003\/root-0012, "a", from/,
    );
  });

  it("is asked again when the server is busy, and stops the other requests after the last", async () => {
    const busy: Handler = raw("", 503, { "retry-after": "0" });
    const server = await start(busy, busy, brightnessServer);
    close(await (await open("http", { url: server.url, retries: 2 })).score(greys(1), ["a"]), [1]);
    const away = await start(raw("", 500), silence);
    const reward = await open("http", { url: away.url, batchSize: 1, concurrency: 2 });
    await assert.rejects(async () => reward.score(greys(0, 0.2, 0.4, 0.6), ["a", "b", "c", "d"]), /status 500$/);
    assert.ok(away.bodies.length <= 2);
  });

  it("works with the example's server", needsExample(), async () => {
    const process = spawn("python3", [join(repository, "examples/reward-server/server.py"), "0"]);
    cleanUp.push(() => process.kill());
    let url = "";
    for await (const line of createInterface(process.stderr)) {
      url = /http:\/\/127\.0\.0\.1:\d+/.exec(line)?.[0] ?? "";
      if (url !== "") break;
    }
    const warm = tidy(() => stack([full([3, 8, 8], 0.5), full([3, 8, 8], 1)]));
    const reward = await open("http", { url: `${url}/score` });
    close(await reward.score(warm, ["a", "b"]), [0, 0]);
    const bright = await open("http", { url: `${url}/score`, part: "brightness" });
    close(await bright.score(warm, ["a", "b"], { metadata: [{}, { x: 1 }] }), [0.5, 1]);
    await assert.rejects(async () => (await open("http", { url })).score(warm, ["a", "b"]), /status 404: "Not Found"$/);
  });
});

function needsExample(): { skip?: string } {
  const { status } = spawnSync("python3", ["-c", "import fastapi, uvicorn, PIL"]);
  return status === 0 ? {} : { skip: "python3 has no fastapi, uvicorn and pillow" };
}

/** A server that speaks pickle. */
const pickled =
  (answer: (request: Map<string, unknown[]>) => unknown): Handler =>
  async (body, response) =>
    void response.end(pickle((await answer(unpickle(body) as Map<string, unknown[]>)) as Picklable));

const jpegBrightness = async (request: Map<string, unknown[]>): Promise<number[]> => {
  for (const image of request.get("images")!)
    assert.equal((await sharp(image as Uint8Array).metadata()).format, "jpeg");
  return Promise.all(request.get("images")!.map((image) => brightnessOf(image as Uint8Array)));
};

describe("the reward deqa", () => {
  it("is the server's output", async () => {
    const server = await start(pickled(async (request) => ({ outputs: await jpegBrightness(request) })));
    const reward = await open("deqa", { url: server.url, batchSize: 2 });
    close(await reward.score(greys(0.2, 0.6, 1), ["a", "b", "c"]), [0.2, 0.6, 1]);
    assert.equal(server.bodies.length, 2);
    // The prompt does not matter.
    close(await reward.score(greys(0.6), ["other"]), [0.6]);
    assert.equal(server.bodies.length, 2);
  });

  it("names what is wrong", async () => {
    const wrong: [Handler, RegExp][] = [
      [pickled(() => ({ outputs: [0.5] })), /Expected 2 outputs, one for each image, from .* but received 1$/],
      [pickled(() => ({ outputs: [0.5, NaN] })), /a finite number in outputs for image 1, "b", from .* received NaN$/],
      [pickled(() => ({ outputs: [0.5, "x"] })), /a finite number in outputs for image 1, "b", from .* received "x"$/],
      [pickled(() => ({ outputs: [0.5, 2n ** 1500n] })), /for image 1, "b", from .* received Infinity$/],
      [pickled(() => ({ outputs: new Uint8Array(3) })), /Expected 2 outputs, .* received "3 bytes"$/],
      [pickled(() => ({ scores: [1] })), /Expected a dictionary with outputs from .* one with \["scores"\]$/],
      [pickled(() => [1]), /Expected the pickle of a dictionary from .* that of a list$/],
      [
        raw(Buffer.from("\x80\x03}X\x07\x00\x00\x00outp", "latin1")),
        /Expected a pickle of plain data from .* 7 bytes of/,
      ],
      [
        raw(Buffer.from("\x80\x03cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "latin1")),
        /names something in Python \(GLOBAL\)/,
      ],
      [raw("<html>"), /Expected a pickle of plain data from .* a pickle of protocol 2 to 5/],
    ];
    for (const [handler, message] of wrong) {
      const reward = await open("deqa", { url: (await start(handler)).url });
      await assert.rejects(async () => reward.score(greys(0, 1), ["a", "b"]), message);
    }
  });
});

describe("the reward geneval", () => {
  const cup = { tag: "counting", include: [{ class: "cup", count: 2, color: "red" }] };
  const call = { metadata: [cup, { ...cup, exclude: [{ class: "dog", count: 1 }] }] };
  const answer = { scores: [0.5, 0.75], rewards: [1, 0], strict_rewards: [0, 1], group_rewards: { counting: [1, 0] } };

  it("sends what the prompts ask for, and takes the part that is asked for", async () => {
    const server = await start(pickled(() => answer));
    for (const [options, expected] of [
      [{}, [0.5, 0.75]],
      [{ part: "strict" }, [0, 1]],
      [{ part: "correct", onlyStrict: false }, [1, 0]],
    ] as const) {
      const reward = await open("geneval", { url: server.url, ...options });
      assert.deepEqual(await reward.score(greys(0, 1), ["two red cups", "cups"], call), expected);
    }
    const [first, , last] = server.bodies.map((body) => unpickle(body) as Map<string, unknown[]>);
    const object = new Map<string, unknown>([
      ["class", "cup"],
      ["count", 2],
      ["color", "red"],
    ]);
    assert.deepEqual(
      first!.get("meta_datas")![0],
      new Map<string, unknown>([
        ["tag", "counting"],
        ["include", [object]],
        ["prompt", "two red cups"],
      ]),
    );
    assert.equal(first!.get("only_strict"), true);
    assert.equal(last!.get("only_strict"), false);
  });

  it("names a prompt without what it needs", async () => {
    const server = await start(pickled(() => answer));
    const reward = await open("geneval", { url: server.url });
    const wrong: [Record<string, unknown>, RegExp][] = [
      [{}, /for the tag of the prompt "a cup", for geneval, but received nothing$/],
      [
        { tag: "cups" },
        /Expected single_object, .* or color_attr for the tag of the prompt "a cup", .* received "cups"$/,
      ],
      [{ tag: "counting" }, /for include of the prompt "a cup", for geneval, but received nothing$/],
      [{ tag: "counting", include: [] }, /for include of the prompt "a cup"/],
      [{ tag: "counting", include: [{ class: "cup" }] }, /for include of .* but received {"class":"cup"}$/],
      [{ tag: "counting", include: [{ class: "cup", count: 1.5 }] }, /for include of .*"count":1.5}$/],
      [{ ...cup, exclude: 1 }, /for exclude of the prompt "a cup", for geneval, but received 1$/],
    ];
    for (const [metadata, message] of wrong) {
      await assert.rejects(async () => reward.score(greys(0), ["a cup"], { metadata: [metadata] }), message);
    }
    await assert.rejects(async () => reward.score(greys(0), ["a cup"]), /for the tag of the prompt "a cup"/);
    assert.equal(server.bodies.length, 0);
    await assert.rejects(open("geneval", { url: server.url, part: "correct" }), /Expected onlyStrict false/);
  });
});

describe("the reward llava", () => {
  it("is BERTScore's recall of the description by default", async () => {
    const server = await start(
      pickled(({ size }) => ({
        outputs: [["a"], ["b"]],
        recall: [[0.9], [0.8]],
        precision: [[0.1], [0.2]],
        f1: [[size], [0]],
      })),
    );
    for (const [options, expected] of [
      [{}, [0.9, 0.8]],
      [{ part: "precision" }, [0.1, 0.2]],
      [{ part: "f1", answer: "It is {prompt}, {prompt}" }, [3, 0]],
    ] as const) {
      const reward = await open("llava", { url: server.url, ...options });
      assert.deepEqual(await reward.score(greys(0, 1), ["a $& cat", "b"]), expected);
    }
    const [first, , last] = server.bodies.map((body) => unpickle(body) as Map<string, unknown[]>);
    const asked = "Answer concisely: what is going on in this image?";
    assert.deepEqual(first!.get("queries"), [[asked], [asked]]);
    assert.deepEqual(first!.get("answers"), [["The image contains a $& cat"], ["The image contains b"]]);
    assert.deepEqual(last!.get("answers"), [["It is a $& cat, a $& cat"], ["It is b, b"]]);
    const wrong = await open("llava", { url: (await start(pickled(() => ({ recall: [[0.9], [null]] })))).url });
    await assert.rejects(async () => wrong.score(greys(0, 1), ["a", "b"]), /in recall for image 1, "b", from .* null$/);
  });

  it("is the share of answers contained in mode strict, with any number of questions", async () => {
    const metadata = [
      { questions: ["what animal?", "what colour?"], answers: ["cat", "red"] },
      { questions: ["how many?"], answers: ["two"] },
    ];
    // The server answers each question with itself, and wants equally many for each image.
    const server = await start(
      pickled((request) => {
        const queries = request.get("queries") as string[][];
        assert.equal(new Set(queries.map((row) => row.length)).size, 1);
        assert.equal(request.has("answers"), false);
        return {
          outputs: queries.map((row) => row.map((query) => (query === "what colour?" ? "blue" : "a cat, two"))),
        };
      }),
    );
    const reward = await open("llava", { url: server.url, mode: "strict" });
    assert.deepEqual(await reward.score(greys(0, 1), ["a", "b"], { metadata }), [0.5, 1]);
    assert.equal(server.bodies.length, 1);
    await reward.score(greys(0, 0.1, 0.2, 0.3, 0.4), ["a", "a", "a", "a", "a"], {
      metadata: Array(5).fill(metadata[0]) as [],
    });
    assert.equal(server.bodies.length, 2); // four images that are new fit one request
    const wrong: [Record<string, unknown>, RegExp][] = [
      [{}, /Expected texts for questions of the prompt "a", for llava's mode strict, but received nothing$/],
      [{ questions: ["x"], answers: [1] }, /Expected texts for answers of the prompt "a", .* received \[1\]$/],
      [
        { questions: ["x"], answers: ["y", "z"] },
        /as many answers as questions of the prompt "a", .* received 2 for 1$/,
      ],
    ];
    for (const [one, message] of wrong) {
      await assert.rejects(async () => reward.score(greys(0), ["a"], { metadata: [one] }), message);
    }
    const short = await open("llava", {
      url: (await start(pickled(() => ({ outputs: [["cat"]] })))).url,
      mode: "strict",
    });
    await assert.rejects(
      async () => short.score(greys(0), ["a"], { metadata }),
      /Expected 2 texts in outputs for image 0, "a", from .* but received \["cat"\]$/,
    );
  });
});

/**
 * The three servers with Python's own pickle, which checks what it gets: JPEGs, texts and whole numbers. (Its http.server
 * in place of Flask.)
 */
const PYTHON_SERVER = `
import http.server, pickle

def answer(data):
    assert all(isinstance(image, bytes) and image[:3] == b"\\xff\\xd8\\xff" for image in data["images"])
    count = len(data["images"])
    if "queries" in data:
        assert all(isinstance(query, str) for row in data["queries"] for query in row)
        outputs = [["a red cat" for query in row] for row in data["queries"]]
        if "answers" not in data:
            return {"outputs": outputs}
        recall = [[len(row[0]) / 100] for row in data["answers"]]
        return {"outputs": outputs, "recall": recall, "precision": recall, "f1": recall}
    if "meta_datas" in data:
        assert data["only_strict"] is True
        counts = [entry["count"] for meta in data["meta_datas"] for entry in meta["include"]]
        assert all(type(number) is int for number in counts)
        tags = {meta["tag"]: [-10.0] for meta in data["meta_datas"]}
        scores = [1 / number for number in counts]
        return {"scores": scores, "rewards": [0.0] * count, "strict_rewards": [1.0] * count,
                "group_rewards": tags, "group_strict_rewards": tags}
    return {"outputs": [0.25] * count}

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = pickle.dumps(answer(pickle.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
`;

const hasPython = spawnSync("python3", ["--version"]).status === 0;

it(
  "Python's pickle reads the requests, and its answers are read",
  hasPython ? {} : { skip: "no python3" },
  async () => {
    const server = spawn("python3", ["-c", PYTHON_SERVER], { stdio: ["ignore", "pipe", "inherit"] });
    cleanUp.push(() => server.kill());
    const [port] = (await once(createInterface(server.stdout), "line")) as [string];
    const ask = async (name: string, options: Record<string, unknown>, call = {}): Promise<ArrayLike<number>> =>
      (await open(name, { url: `http://127.0.0.1:${port}`, ...options })).score(greys(0.1, 0.2), ["a", "bc"], call);
    assert.deepEqual(await ask("deqa", {}), [0.25, 0.25]);
    close(await ask("llava", {}), [0.2, 0.21], 1e-9);
    const questions = { questions: ["which colour?", "what?"], answers: ["red", "dog"] };
    assert.deepEqual(await ask("llava", { mode: "strict" }, { metadata: [questions, questions] }), [0.5, 0.5]);
    const metadata = [1, 4].map((count) => ({ tag: "counting", include: [{ class: "cup", count }] }));
    assert.deepEqual(await ask("geneval", {}, { metadata }), [1, 0.25]);
    assert.deepEqual(await ask("geneval", { part: "strict" }, { metadata }), [1, 1]);
  },
);

/** A chat completion. */
const says = (content: string, logprobs?: unknown): Handler => json({ choices: [{ message: { content }, logprobs }] });

/** Tokens with their alternatives. */
const tokens = (...all: [string, Record<string, number>][]): unknown => ({
  content: all.map(([token, others]) => ({
    token,
    logprob: Math.log(others[token] ?? 1),
    top_logprobs: Object.entries(others).map(([other, p]) => ({ token: other, logprob: Math.log(p) })),
  })),
});

interface Sent {
  model: string;
  messages: { content: [{ image_url: { url: string } }, { text: string }] }[];
  [parameter: string]: unknown;
}
const sentOf = (server: TestServer): Sent[] => server.bodies.map((body) => JSON.parse(body.toString()) as Sent);

describe("the reward vlm", () => {
  const scoreOf = async (handler: Handler, options: Record<string, unknown> = {}): Promise<number> => {
    const reward = await open("vlm", { url: (await start(handler)).url, model: "m", ...options });
    return (await reward.score(greys(0.5), ["a cat"]))[0]!;
  };

  it("asks a question of yes or no about the image", async () => {
    const server = await start(says("Yes."));
    const reward = await open("vlm", { url: `${server.url}/v1/`, model: "judge", imageSize: 12 });
    assert.deepEqual(await reward.score(greys(0.5), ['a "$&" {min} cat']), [1]);
    assert.deepEqual(server.paths, ["/v1/chat/completions"]);
    const [sent] = sentOf(server);
    const [{ image_url }, { text }] = sent!.messages[0]!.content;
    assert.equal(text, 'Does this figure show "a "$&" {min} cat"? Please answer yes or no.');
    const png = Buffer.from(image_url.url.replace("data:image/png;base64,", ""), "base64");
    const { format, width, height } = await sharp(png).metadata();
    assert.deepEqual([format, width, height], ["png", 12, 8]);
    assert.deepEqual([sent!.model, sent!["temperature"], sent!["logprobs"]], ["judge", 0, true]);
  });

  it("is the probability of yes where there are log-probs", async () => {
    close(
      [await scoreOf(says("Yes", tokens(["Yes", { Yes: 0.6, " yes": 0.1, No: 0.2, Maybe: 0.1 }])))],
      [0.7 / 0.9],
      1e-9,
    );
    close([await scoreOf(says("No", tokens(["No", { No: 0.9, Yes: 0.1 }])))], [0.1], 1e-9);
    const inside = tokens(["Sure", { Sure: 1 }], [":", {}], [" yes", { " yes": 0.75, " no": 0.25 }], [".", {}]);
    close([await scoreOf(says("Sure: yes.", inside))], [0.75], 1e-9);
    const thought = tokens(["<think>no</think>", {}], ["\n", {}], ["Yes", { Yes: 0.75, No: 0.25 }]);
    close([await scoreOf(says("<think>no</think>\nYes", thought))], [0.75], 1e-9);
    // Not asked for, incomplete, or of nothing that is yes or no: 1 or 0.
    const sure = tokens(["Yes", { Yes: 0.6, No: 0.4 }]);
    assert.equal(await scoreOf(says("Yes", sure), { logprobs: false }), 1);
    assert.equal(await scoreOf(says("Yes", { content: [{ token: "Yes", logprob: "x" }] })), 1);
    assert.equal(await scoreOf(says("Yes", tokens(["Y", { Y: 1 }], ["es", { es: 1 }]))), 1);
    await assert.rejects(
      scoreOf(says("Yes"), { logprobs: true }),
      /Expected yes or no with log-probs for image 0, "a cat"/,
    );
  });

  it("understands yes and no in words, and names a miss", async () => {
    assert.equal(await scoreOf(says("**No**, there is no cat, yes a dog")), 0);
    assert.equal(await scoreOf(says("The answer is: yes")), 1);
    for (const text of ["", "maybe", "It could be yes or no", "Yesterday, nowhere"]) {
      await assert.rejects(
        scoreOf(says(text)),
        /Expected yes or no for image 0, "a cat", from http.*\/chat\/completions but/,
      );
      assert.equal(await scoreOf(says(text), { onMiss: 0.25 }), 0.25);
    }
    await assert.rejects(
      scoreOf(json({}), { onMiss: 0 }),
      /a chat completion for image 0, "a cat", from .* received one without/,
    );
    await assert.rejects(scoreOf(raw("", 500), { onMiss: 0 }), /status 500/);
  });

  it("asks for a number by a schema, and scales it", async () => {
    const server = await start(says('{"score": 4}'));
    const reward = await open("vlm", {
      url: server.url,
      model: "m",
      ask: "number",
      min: 1,
      max: 5,
      question: "{prompt}: {min}-{max}",
    });
    assert.deepEqual(await reward.score(greys(0.5), ["a cat"]), [0.75]);
    const [sent] = sentOf(server);
    assert.equal(sent!.messages[0]!.content[1].text, "a cat: 1-5");
    assert.equal((sent!["response_format"] as { type: string }).type, "json_schema");
    const texts: [string, number][] = [
      ["7", 0.7],
      ['```json\n{"score": 7.5}\n```', 0.75],
      ["<think>perhaps 3</think> 8", 0.8],
      ["There are 3 cats and 2 dogs. Final Score: 6", 0.6],
      ["**Score:** 6", 0.6],
      ["7/10", 0.7],
      ["I rate it 7 out of 10.", 0.7],
    ];
    for (const [text, expected] of texts) close([await scoreOf(says(text), { ask: "number" })], [expected], 1e-9);
    for (const text of ["eleven", "11", "-1", "3 cats, 2 dogs", '{"score": "high"}', '{"points": null}']) {
      await assert.rejects(
        scoreOf(says(text), { ask: "number" }),
        /Expected a number from 0 to 10 for image 0, "a cat", from/,
      );
      assert.equal(await scoreOf(says(text), { ask: "number", onMiss: 0 }), 0);
    }
    await assert.rejects(scoreOf(says("1"), { ask: "number", min: 3, max: 3 }), /Expected max above min/);
  });

  it("leaves out what a server refuses by name, and says what else it refuses", async () => {
    const picky: Handler = (body, response, request) => {
      const sent = JSON.parse(body.toString()) as Sent;
      const unknown = ["logprobs", "max_tokens"].find((name) => name in sent);
      const message = `Unsupported parameter: '${unknown}' is not supported with this model`;
      return (unknown === undefined ? says("yes") : json({ error: { message } }, 400))(body, response, request);
    };
    const server = await start(picky);
    const reward = await open("vlm", { url: server.url, model: "m", concurrency: 1 });
    assert.deepEqual(await reward.score(greys(0.5, 0.6), ["a", "b"]), [1, 1]);
    assert.equal(server.bodies.length, 4); // two refusals, then both
    assert.equal("top_logprobs" in sentOf(server).at(-1)!, false);
    await assert.rejects(
      scoreOf(json({ error: { message: "no images, please" } }, 400)),
      /status 400: "no images, please"$/,
    );
  });

  it("asks about each image once, several at a time", async () => {
    const slow: Handler = (body, response, request) =>
      void setTimeout(() => void says("yes")(body, response, request), 5);
    const server = await start(slow);
    const reward = await open("vlm", { url: server.url, model: "m", concurrency: 2 });
    const images = greys(0, 0.1, 0.2, 0.3, 0.4, 0.4);
    await reward.score(images, Array(6).fill("a") as string[]);
    await reward.score(images, Array(6).fill("a") as string[]);
    assert.equal(server.bodies.length, 5);
    assert.equal(server.busiest, 2);
  });
});

describe("VlmClient", () => {
  it("captions images", async () => {
    const server = await start(says(" A cat. "), says("A dog."), says(""));
    const kind = rewards.get("vlm");
    const options = optionsOf(kind, {
      name: "vlm",
      url: server.url,
      model: "m",
      concurrency: 1,
      retries: 1,
    }) as VlmOptions;
    const vlm = new VlmClient(options, { backOff: { first: 1, longest: 1 } });
    cleanUp.push(() => vlm.dispose());
    const pngs = await Promise.all(
      [0, 1, 2].map((red) =>
        sharp({ create: { width: 4, height: 4, channels: 3, background: { r: red, g: 0, b: 0 } } })
          .png()
          .toBuffer(),
      ),
    );
    assert.deepEqual(await vlm.caption(pngs.slice(0, 2), "What is it?"), ["A cat.", "A dog."]);
    assert.deepEqual(await vlm.caption(pngs.slice(0, 2), "What is it?"), ["A cat.", "A dog."]);
    assert.equal(server.bodies.length, 2);
    await assert.rejects(
      vlm.caption(pngs.slice(2), "What is it?"),
      /Expected a text for image 0, from .*, asked 2 times/,
    );
    await assert.rejects(vlm.caption(pngs.slice(2), "And now?", AbortSignal.abort()), Interrupted);
  });
});
