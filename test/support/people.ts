/** People as a reward: a run that asks, and `b2 annotate` as a process that somebody answers by HTTP. */
import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after } from "node:test";
import { undecided, type Choice } from "../../src/annotate/choices.js";
import { Annotations, type QueuedGroup } from "../../src/annotate/index.js";
import type { PageState } from "../../src/annotate/page-state.js";
import { presets, resolveConfig } from "../../src/b2/index.js";
import { optionsOf } from "../../src/base/registry.js";
import { RewardResources, rewards, type Reward } from "../../src/rewards/index.js";
import { layout, RunWriter } from "../../src/runs/index.js";
import { Generator, rand, stack, tidy, type Tensor } from "../../src/torch/index.js";
import { startB2, type Outcome } from "./cli.js";
import { temporaryFolder } from "./folders.js";

/** A run that has begun. */
export function newRun(): string {
  const run = join(temporaryFolder(), "run");
  RunWriter.create(run, { config: resolveConfig(presets.demo), reward: "config" });
  return run;
}

/** The reward as a config names it. */
export async function openPeople(run: string | undefined, options: object = {}): Promise<Reward> {
  const kind = rewards.get("people");
  return kind.open(optionsOf(kind, { name: "people", ...options }), new RewardResources("cpu", undefined, run));
}

/** Images of noise, [B, 3, 12, 16], different for each seed. */
export const noise = (...seeds: number[]): Tensor =>
  tidy(() => stack(seeds.map((seed) => rand([3, 12, 16], { generator: new Generator(seed) }))));

/** The keys of so many images of each root, in order. */
export const keysOf = (stage: string, roots: readonly number[]): { group: string; index: number }[] =>
  roots.flatMap((count, root) =>
    Array.from({ length: count }, (_, index) => ({ group: `${stage}/root-${String(root).padStart(4, "0")}`, index })),
  );

/** Scores the images of a stage in batches, as a run does. */
export async function scoreStage(
  reward: Reward,
  images: Tensor,
  keys: readonly { group: string; index: number }[],
  batch = keys.length,
): Promise<number[]> {
  const scores: number[] = [];
  for (let start = 0; start < keys.length; start += batch) {
    const own = keys.slice(start, start + batch);
    const rows = tidy(() => images.narrow(0, start, own.length));
    const prompts = own.map(({ group }) => `a prompt of ${group}`);
    scores.push(...Array.from(await reward.score(rows, prompts, { keys: own })));
    rows.dispose();
  }
  return scores;
}

/** Asks about roots of so many images each; nobody has answered yet. */
export async function ask(
  run: string,
  stage: string,
  counts: readonly number[],
  options: object = {},
): Promise<Annotations> {
  const reward = await openPeople(run, options);
  const keys = keysOf(stage, counts);
  const firstSeed = 1000 * Number(stage.replace(/\D/g, ""));
  const images = noise(...keys.map((_, i) => firstSeed + i));
  await scoreStage(reward, images, keys);
  assert.throws(() => void reward.complete!(), /Expected judgements/);
  images.dispose();
  return new Annotations(layout.annotations(run));
}

export interface Served {
  readonly address: string;
  readonly child: ChildProcess;
  readonly outcome: Promise<Outcome>;
}

const started: ChildProcess[] = [];
after(() => started.forEach((child) => child.kill("SIGKILL")));

/** Starts `b2 annotate`, and waits for its address. */
export async function serveRun(run: string, ...args: string[]): Promise<Served> {
  const { child, outcome } = startB2("annotate", run, "--json", ...args);
  started.push(child);
  for await (const line of createInterface({ input: child.stdout! })) {
    const event = JSON.parse(line) as { type: string; address?: string; message?: string };
    if (event.type === "started") {
      // It was stopped with its reader.
      child.stdout!.resume();
      return { address: event.address!, child, outcome };
    }
    throw new Error(event.message);
  }
  throw new Error((await outcome).stderr);
}

/** Ends a process as a power cut does. */
export async function kill({ child }: Served): Promise<void> {
  child.kill("SIGKILL");
  await once(child, "close");
}

export const stateOf = async (address: string): Promise<PageState> =>
  (await (await fetch(`${address}state`)).json()) as PageState;

export const post = (address: string, path: string, body: object): Promise<Response> =>
  fetch(address + path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });

/** Sends a choice in the group whose turn it is. */
export async function decide(address: string, choice: (shown: QueuedGroup) => Choice): Promise<void> {
  const { current } = await stateOf(address);
  const { group, images } = current!;
  const response = await post(address, "judge", { group, images, choice: choice(current as unknown as QueuedGroup) });
  assert.equal(response.status, 200, await response.clone().text());
}

export const bestAndWorst = (best: number, worst: number) => (shown: QueuedGroup) => ({
  ...undecided,
  best: shown.images[best]!,
  worst: shown.images[worst]!,
});
