/** Readers of what servers answer: the hub, rewards. And of Python's pickles, which some of them speak. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { z } from "zod";
import { downloadModel } from "../../../src/hub/index.js";
import { Failure } from "../../../src/rewards/servers/failure.js";
import { jsonIn, numbersIn } from "../../../src/rewards/servers/json-answer.js";
import { postPickle } from "../../../src/rewards/servers/pickle-server.js";
import { pickle, unpickle, type Picklable } from "../../../src/rewards/servers/pickle.js";
import { RewardServer } from "../../../src/rewards/servers/reward-server.js";
import { serverOptions } from "../../../src/rewards/servers/server-options.js";
import { choiceIn, numberIn, probabilityOfYes } from "../../../src/rewards/servers/vlm-answers.js";
import { mutatePickle, opcodeSoup } from "../mutate-pickle.js";
import { mutateJson, type Mutate } from "../mutate.js";
import { inputOf, put, type ReaderUnderTest } from "./reader.js";

/** Also some that are nothing but opcodes. */
const mutateOrMake: Mutate = (sound, random) => (random.once(5) ? opcodeSoup(random) : mutatePickle(sound, random));

const ANSWERS: readonly Picklable[] = [
  { outputs: [["a cat", "no"]], recall: [[0.9, 0.8]], f1: [[1, 2]] },
  { scores: [0.25, 1, 0], rewards: [1, 0], group_rewards: { counting: [-10, 1], colors: [0.5] } },
  { images: [new Uint8Array(40).fill(9)], big: 2n ** 70n, only_strict: true, none: null },
];

/** How many values a value is made of, for no other reason than to walk through all of it. */
function walk(value: unknown): number {
  if (Array.isArray(value)) return value.reduce<number>((sum, item) => sum + walk(item), 1);
  if (value instanceof Map) return [...value].reduce((sum, [key, item]) => sum + walk(key) + walk(item), 1);
  return 1;
}

const pickles: ReaderUnderTest = {
  name: "pickles",
  share: 1500,
  prepare: (folder) => {
    ANSWERS.forEach((answer, i) => put(folder, `pickle-${i}`, pickle(answer)));
    const files = Object.fromEntries(ANSWERS.map((_, i) => [`pickle-${i}`, mutateOrMake]));
    return {
      files,
      names: null,
      read: () => {
        for (const name of Object.keys(files)) assert(walk(unpickle(readFileSync(join(folder, name)))) <= 1_000_000);
      },
    };
  },
};

const isPlain = (value: unknown): boolean => typeof value === "number" && Number.isFinite(value);

const jsonAnswers: ReaderUnderTest = {
  name: "JSON answers of rewards",
  share: 1200,
  prepare: (folder) => {
    const token = { token: "Yes", logprob: -0.1, top_logprobs: [{ token: "no", logprob: -2.5 }] };
    const choice = { message: { content: "Yes. Score: 4/5" }, logprobs: { content: [token] } };
    put(folder, "chat.json", { choices: [choice], usage: { total_tokens: 4 } });
    put(folder, "scores.json", { scores: [0.5, 1e-3, 2] });
    const subjects = ["image 0", "image 1", "image 2"];
    return {
      files: { "chat.json": mutateJson, "scores.json": mutateJson },
      names: null,
      refusals: [Failure],
      read: () => {
        const value = jsonIn(readFileSync(join(folder, "scores.json")), "scores");
        const { scores } = (value ?? {}) as { scores?: unknown };
        assert(numbersIn(scores, subjects, "scores").every(isPlain));
        const chat = choiceIn(readFileSync(join(folder, "chat.json")), "image 0");
        const probability = probabilityOfYes(chat, null);
        assert(probability === undefined || (probability >= 0 && probability <= 1), String(probability));
        const number = numberIn(chat.text);
        assert(number === undefined || isPlain(number), String(number));
      },
    };
  },
};

/** What a server of these tests answers, and with what. */
interface Answer {
  readonly status?: unknown;
  readonly headers?: unknown;
  readonly body?: unknown;
}

const textIn = (body: unknown): string => (typeof body === "string" ? body : (JSON.stringify(body) ?? ""));

const started = (server: Server): Promise<string> =>
  new Promise((done) =>
    server.listen(0, "127.0.0.1", () => done(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)),
  );

function stopped(server: Server): Promise<unknown> {
  server.closeAllConnections();
  return new Promise((done) => server.close(done));
}

/** A server whose answers are in a file of the folder, by the kind of the request. */
const serverOver = (folder: string, file: string, kindOf: (path: string) => string): Server =>
  createServer((request, response) => {
    request.resume();
    request.once("end", () => {
      const text = readFileSync(join(folder, file), "utf8");
      let answer: Answer | undefined;
      try {
        answer = (JSON.parse(text) as Record<string, Answer>)[kindOf(request.url ?? "")];
      } catch {
        answer = { body: text };
      }
      const { status, headers, body } = answer ?? {};
      try {
        const lines = typeof headers === "object" && headers !== null ? Object.entries(headers) : [];
        for (const [name, value] of lines) response.setHeader(name, value as string);
        response.writeHead(Number.isInteger(status) ? (status as number) : 200);
      } catch {
        // Not what Node can send.
      }
      response.end(textIn(body));
    });
  });

const COMMIT = "0123456789abcdef0123456789abcdef01234567";

/** Of every file's content. */
const SHA_256 = createHash("sha256").update("{}").digest("hex");

/** The answers of a hub that has a tokenizer. */
const HUB = {
  revision: {
    status: 200,
    headers: { "content-type": "application/json" },
    body: {
      ...{ _id: "1", id: "a/b", sha: COMMIT, private: false, gated: false, likes: 0, downloads: 0 },
      lastModified: "2026-01-01T00:00:00.000Z",
    },
  },
  tree: {
    status: 200,
    headers: { "content-type": "application/json", "x-error-code": "None", "x-error-message": "none" },
    body: ["vocab.json", "merges.txt", "tokenizer_config.json"].map((path, i) => {
      return {
        type: "file",
        path,
        size: 2,
        oid: `${i}`.repeat(40),
        ...(i === 2 && { lfs: { oid: SHA_256, size: 2 } }),
      };
    }),
  },
  file: { status: 200, headers: { etag: "x", location: "/elsewhere" }, body: "{}" },
};

/** Never redirects, as a sound answer; a damaged one may. */
const kindOfPath = (path: string): string =>
  path.includes("/revision/") ? "revision" : path.includes("/tree/") ? "tree" : "file";

/** Sometimes the path and the size of a file, which decide where it is written and how long it may be. */
const mutateHub: Mutate = (sound, random) => {
  if (!random.once(3)) return mutateJson(sound, random);
  const changed = JSON.parse(sound.toString()) as typeof HUB;
  const entry = random.pick(changed.tree.body) as Record<string, unknown>;
  const strange = random.pick([
    "../../x",
    "../../../../outside/x",
    "/tmp/x",
    "a/../../x",
    ".",
    "",
    "a\0b",
    "a\\..\\b",
    "a/b",
  ]);
  switch (random.below(5)) {
    case 0:
      entry["path"] = `${strange}/vocab.json`;
      break;
    case 1:
      entry["oid"] = strange;
      break;
    case 2:
      entry["lfs"] = { oid: strange, size: random.pick([2, -1, 1e300, 0.5]) };
      break;
    case 3:
      changed.revision.body.sha = strange;
      break;
    default:
      entry["size"] = random.pick([-1, 0, 1, 3, 0.5, 1e300, "2", null]);
  }
  return Buffer.from(JSON.stringify(changed));
};

const hub: ReaderUnderTest = {
  name: "answers of the hub",
  share: 300,
  prepare: async (folder) => {
    put(folder, "answers.json", HUB);
    const server = serverOver(folder, "answers.json", kindOfPath);
    process.env["HF_ENDPOINT"] = await started(server);
    process.env["HF_HUB_DOWNLOAD_TIMEOUT"] = "2";
    const cache = join(folder, "cache");
    return {
      files: { "answers.json": mutateHub },
      names: null,
      read: async () => {
        rmSync(cache, { recursive: true, force: true });
        const path = await downloadModel("a/b", { purpose: "tokenizer", cache, firstDelay: 1 }).finally(() =>
          assert.deepEqual(
            readdirSync(folder).filter((name) => name !== "cache"),
            ["answers.json"],
          ),
        );
        assert(realpathSync(path).startsWith(realpathSync(cache)), path);
        for (const name of readdirSync(path)) {
          const file = realpathSync(join(path, name));
          assert(file.startsWith(realpathSync(cache)), file);
        }
        assert(existsSync(join(path, "vocab.json")));
      },
      close: () => stopped(server),
    };
  },
};

const options = z.object(serverOptions("http://127.0.0.1"));

const rewardServers: ReaderUnderTest = {
  name: "answers of reward servers",
  share: 400,
  prepare: async (folder) => {
    put(folder, "answers.json", {
      answer: {
        status: 200,
        headers: { "content-type": "application/json", "retry-after": "0", location: "http://127.0.0.1:1/" },
        body: { scores: [0.5, 1, 2] },
      },
    });
    put(folder, "input", pickle({ scores: [0.5, 1, 2] }));
    const server = serverOver(folder, "answers.json", () => "answer");
    const speaking = createServer((request, response) => {
      request.resume();
      request.once("end", () => response.end(inputOf(folder)));
    });
    const [json, python] = await Promise.all([server, speaking].map(started));
    const [asking, picklish] = [json, python].map(
      (url) =>
        new RewardServer(options.parse({ url, retries: 1, requestTimeout: 5 }), { backOff: { first: 1, longest: 1 } }),
    ) as [RewardServer, RewardServer];
    const subjects = ["image 0", "image 1", "image 2"];
    const scoresIn = (value: unknown): number[] => {
      const { scores } = (value ?? {}) as { scores?: unknown };
      return numbersIn(scores, subjects, "scores");
    };
    return {
      files: { "answers.json": mutateJson, input: mutateOrMake },
      names: null,
      read: async () => {
        const question = { body: () => "{}", contentType: "application/json" };
        const numbers = await asking.post({ ...question, read: (answer) => scoresIn(jsonIn(answer, "scores")) });
        const signal = new AbortController().signal;
        const others = await postPickle(picklish, {}, (part) => numbersIn(part("scores"), subjects, "scores"), signal);
        assert([...numbers, ...others].every(isPlain));
      },
      close: async () => {
        asking.dispose();
        picklish.dispose();
        await Promise.all([server, speaking].map(stopped));
      },
    };
  },
};

export const answerReaders: readonly ReaderUnderTest[] = [pickles, jsonAnswers, hub, rewardServers];
