/**
 * What a stage of Stable Diffusion 1.4 and SDXL would take on 8 to 512 cards, on paper: the model of scaling/cards.ts, which
 * has one H200's measured times and assumptions about networks. It measures nothing.
 *
 *     npm run build && node dist/bench/scaling-cards.js [--cards 8,64,512]
 *
 * Strong: the stage of the preset `sd`, 256 roots. Weak: 32 roots a card, and optimiser steps that grow as well.
 */
import { parseArgs } from "node:util";
import {
  assumed,
  gatheredOnCard,
  samplesInNode,
  sd14,
  sdxl,
  secondsOfStage,
  stageOf,
  workOf,
  type Changes,
  type Setting,
} from "./scaling/cards.js";
import { table } from "./scaling/table.js";

const { values } = parseArgs({ options: { cards: { type: "string", default: "8,64,512" } } });
const counts = values.cards.split(",").map(Number);

type Kind = "strong" | "weak";

const settingOf = (
  kind: Kind,
  model: Setting["model"],
  weights: Setting["weights"],
  cards: number,
  changes: Changes = {},
): Setting => {
  const size =
    kind === "strong" ? { roots: 256, samplesPerUpdate: 128 } : { roots: 32 * cards, samplesPerUpdate: 16 * cards };
  return { model, weights, cards, ...size, changes };
};

/** One card's seconds, over N times the seconds of N for strong scaling, over those of N times the work for weak. */
function efficiencyOf(kind: Kind, setting: Setting): number {
  const alone = secondsOfStage(stageOf(settingOf(kind, setting.model, setting.weights, 1, setting.changes)));
  const seconds = secondsOfStage(stageOf(setting));
  return kind === "strong" ? alone / seconds / setting.cards : alone / seconds;
}

const percent = (share: number): string => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`;
const seconds = (value: number): string => (value < 10 ? value.toFixed(2) : value.toFixed(0));
const gigabytes = (bytes: number): string =>
  bytes >= 1e12 ? `${(bytes / 1e12).toFixed(1)} TB` : `${(bytes / 1e9).toFixed(bytes < 1e10 ? 1 : 0)} GB`;

function rowOf(kind: Kind, setting: Setting): (string | number)[] {
  const stage = stageOf(setting);
  const all = secondsOfStage(stage);
  const losses = Object.entries(stage)
    .filter(([name, value]) => name !== "ideal" && value / all >= 0.02)
    .sort(([, a], [, b]) => b - a)
    .slice(0, 3);
  const { roots, branches } = workOf(setting);
  return [
    setting.model.name,
    setting.weights,
    setting.cards,
    seconds(all),
    seconds((roots * branches) / all),
    percent(efficiencyOf(kind, setting)),
    percent((stage.latents + stage.scores + stage.gradients) / all),
    losses.map(([name, value]) => `${name} ${percent(value / all)}`).join(", "),
    gigabytes(samplesInNode(setting)) + (samplesInNode(setting) > assumed.nodeMemory ? ", too much" : ""),
    percent(efficiencyOf(kind, { ...setting, changes: { all: true } })),
  ];
}

const everyModel = [sd14, sdxl].flatMap((model) => (["lora", "full"] as const).map((weights) => ({ model, weights })));

for (const kind of ["strong", "weak"] as const) {
  const settings = everyModel.flatMap(({ model, weights }) =>
    counts.map((cards) => settingOf(kind, model, weights, cards)),
  );
  console.log(`\n${kind === "strong" ? "Strong: 256 roots" : "Weak: 32 roots a card"}\n`);
  console.log(
    table(
      [
        "model",
        "weights",
        "cards",
        "stage, s",
        "images/s",
        "efficiency",
        "communication",
        "what limits it",
        "samples in a node",
        "efficiency with the changes",
      ],
      settings.map((setting) => rowOf(kind, setting)),
    ),
  );
}
const most = Math.max(...counts);
const stages = (["strong", "weak"] as const).flatMap((kind) =>
  everyModel.map(({ model, weights }) => {
    return { kind, model, weights, stage: stageOf(settingOf(kind, model, weights, most)) };
  }),
);
console.log(`\nWhere the seconds of a stage go on ${most} cards\n`);
console.log(
  table(
    ["scaling", "model", "weights", ...Object.keys(stages[0]!.stage)],
    stages.map(({ kind, model, weights, stage }) => [kind, model.name, weights, ...Object.values(stage).map(seconds)]),
  ),
);

console.log("\nGradients of a stage, seconds\n");
console.log(
  table(
    ["model", "weights", "cards", "after backward", "now", "with the changes", "gathered on a card"],
    everyModel.flatMap(({ model, weights }) =>
      counts.map((cards) => {
        const of = (changes: Changes): string =>
          stageOf(settingOf("weak", model, weights, cards, changes)).gradients.toFixed(2);
        const isLora = weights === "lora";
        return [
          model.name,
          weights,
          cards,
          isLora ? "" : of({ afterBackward: true }),
          of({}),
          of({ all: true }),
          isLora ? gigabytes(gatheredOnCard(settingOf("weak", model, weights, cards))) : "",
        ];
      }),
    ),
  ),
);
