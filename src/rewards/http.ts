/** A reward by a server of one's own, which speaks JSON: docs/reward-servers.md describes the protocol. */
import { z } from "zod";
import { isJsonObject } from "../base/files.js";
import { show } from "../base/show.js";
import { defineReward } from "./reward.js";
import { batchedReward } from "./servers/batched-reward.js";
import { Failure } from "./servers/failure.js";
import { toPngs } from "./servers/images.js";
import { jsonIn, numbersIn } from "./servers/json-answer.js";
import { batchSizeOption, serverOptions, serverProblems } from "./servers/server-options.js";

export const httpReward = defineReward({
  name: "http",
  summary: "What a server of your own answers, in JSON",
  cost: "depends on the server, which gets each image as PNG",
  range: "depends on the server",
  source: "the protocol of docs/reward-servers.md, with an example in examples/reward-server",
  licence: "that of the server",
  options: z.object({
    ...serverOptions("http://127.0.0.1:8000/score"),
    batchSize: batchSizeOption(16),
    part: z
      .string()
      .min(1)
      .nullable()
      .default(null)
      .describe("Which of the answer's `details` is the reward; null is its `scores`."),
  }),
  problems: serverProblems,
  open: ({ part, batchSize, ...options }) =>
    batchedReward(options, {
      batchSize,
      encode: toPngs,
      about: (prompt, metadata) => ({ prompt, metadata }),
      ask: (server, batch, signal) => {
        const body = (): string =>
          JSON.stringify({
            images: batch.map(({ image }) => image.toString("base64")),
            prompts: batch.map(({ about }) => about.prompt),
            metadata: batch.map(({ about }) => about.metadata),
          });
        const subjects = batch.map(({ subject }) => subject);
        const read = (answer: Buffer): number[] => scoresIn(answer, part, subjects);
        return server.post({ body, contentType: "application/json", read }, signal);
      },
    }),
});

/** The reward in an answer `{ scores, details? }`, of which all numbers must be right. */
function scoresIn(answer: Buffer, part: string | null, subjects: readonly string[]): number[] {
  const value = jsonIn(answer, "scores");
  if (!isJsonObject(value)) throw new Failure("an object with scores", show(value));
  const { scores, details } = value;
  if (details !== undefined && details !== null && !isJsonObject(details)) {
    throw new Failure("an object for details", show(details));
  }
  const parts = new Map(Object.entries(details ?? {}).map(([name, list]) => [name, numbersIn(list, subjects, name)]));
  const total = numbersIn(scores, subjects, "scores");
  const wanted = part === null ? total : parts.get(part);
  if (wanted === undefined) throw new Failure(`details with ${part}`, show([...parts.keys()]));
  return wanted;
}
