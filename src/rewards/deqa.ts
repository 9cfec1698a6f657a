/**
 * DeQA-Score (You et al. 2025, arXiv 2501.11561): how good an image looks, by a vision-language model that was trained
 * for it. A server computes it: yifan123/reward-server's app_deqa, whose protocol this speaks.
 */
import { z } from "zod";
import { defineReward } from "./reward.js";
import { batchedReward } from "./servers/batched-reward.js";
import { toJpegs } from "./servers/images.js";
import { numbersIn } from "./servers/json-answer.js";
import { postPickle } from "./servers/pickle-server.js";
import { batchSizeOption, qualityOption, serverOptions, serverProblems } from "./servers/server-options.js";

export const deqa = defineReward({
  name: "deqa",
  summary: "DeQA-Score: how good the image looks, by a server of flow_grpo's kind",
  cost: "one pass of a vision-language model of 7 billion parameters on the server",
  range: "0.2 to 1: a fifth of a mark from 1 to 5",
  source: "You et al. 2025, arXiv 2501.11561; the server is yifan123/reward-server's app_deqa",
  licence: "that of the server and its weights (zhiyuanyou/DeQA-Score-Mix3)",
  options: z.object({
    ...serverOptions("http://127.0.0.1:18086"),
    batchSize: batchSizeOption(64),
    quality: qualityOption(75),
  }),
  problems: serverProblems,
  open: ({ batchSize, quality, ...options }) =>
    batchedReward(options, {
      batchSize,
      encode: (images) => toJpegs(images, quality),
      about: () => null,
      ask: (server, batch, signal) => {
        const subjects = batch.map(({ subject }) => subject);
        const request = { images: batch.map(({ image }) => image) };
        return postPickle(server, request, (part) => numbersIn(part("outputs"), subjects, "outputs"), signal);
      },
    }),
});
