/**
 * What it gains that gradients are summed while backward goes on: seconds of a training step of two workers, with buckets
 * that go out during the backward pass and after it, in turns.
 *
 *     npm run build && node dist/bench/overlap.js [--layers 16] [--width 1024] [--rows 256] [--steps 10] [--mbit 1000]
 *
 * The model is a stack of linear layers. `--mbit` puts the workers into two network namespaces, joined by a cable of so many
 * megabits a second; this takes root and iproute2. Without, they talk over the loopback interface, which is bound by the
 * processor: overlap gains little there, since the cores that copy are those that compute.
 */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { groupOfEnvironment } from "../src/distributed/index.js";
import { randn, relu, tidy } from "../src/torch/index.js";

const { values } = parseArgs({
  options: {
    layers: { type: "string", default: "16" },
    width: { type: "string", default: "1024" },
    rows: { type: "string", default: "256" },
    steps: { type: "string", default: "10" },
    mbit: { type: "string" },
  },
});
const [layers, width, rows, steps] = [values.layers, values.width, values.rows, values.steps].map(Number) as [
  ...[number, number, number, number],
];

const median = (list: readonly number[]): number => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)]!;

/** Of one way, in seconds: medians over steps. */
interface Times {
  readonly step: number;
  readonly forwardAndBackward: number;
  /** Buckets that had gone out when backward was done. */
  readonly sent: number;
}

async function work(): Promise<void> {
  const group = await groupOfEnvironment();
  const weights = Array.from({ length: layers }, () =>
    tidy(() => randn([width, width]).div(Math.sqrt(width))).requiresGrad_(),
  );
  const x = randn([rows, width]);
  const buckets = group.gradientBuckets(weights.toReversed(), 25 * 2 ** 18);
  const measured = { during: [], after: [] } as Record<"during" | "after", Times[]>;
  for (let step = 0; step < 2 * (steps + 1); step++) {
    const isDuring = step % 2 === 0;
    await group.barrier();
    const start = performance.now();
    buckets.during(
      () =>
        tidy(() =>
          weights
            .reduce((y, weight) => relu(y.matmul(weight)), x)
            .square()
            .mean()
            .backward(),
        ),
      { isLast: isDuring },
    );
    const computed = performance.now();
    const { sent } = buckets;
    await buckets.sum();
    const done = performance.now();
    for (const weight of weights) weight.grad = null;
    // The first of each learns, or warms up.
    if (step < 2) continue;
    const times = { step: (done - start) / 1000, forwardAndBackward: (computed - start) / 1000, sent };
    measured[isDuring ? "during" : "after"].push(times);
  }
  if (group.rank === 0) {
    const of = (times: readonly Times[], key: keyof Times): number => median(times.map((time) => time[key]));
    for (const [name, times] of Object.entries(measured)) {
      const [step, computing] = [of(times, "step"), of(times, "forwardAndBackward")];
      const parts = `forward and backward ${computing.toFixed(2)} s, ${of(times, "sent")} buckets sent by then`;
      console.log(`${name} backward: ${step.toFixed(2)} s a step (${parts})`);
    }
    const ratios = measured.during.map(({ step }, i) => step / measured.after[i]!.step);
    console.log(`during / after, median of ${ratios.length} pairs: ${median(ratios).toFixed(2)}`);
  }
  await group.close();
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

const spaces = ["b2-overlap-a", "b2-overlap-b"] as const;
const ip = (...args: string[]): void => void execFileSync("ip", args, { stdio: "pipe" });

function layCable(mbit: string): void {
  for (const space of spaces) ip("netns", "add", space);
  ip("link", "add", "b2cablea", "type", "veth", "peer", "name", "b2cableb");
  for (const [i, space] of spaces.entries()) {
    const cable = i === 0 ? "b2cablea" : "b2cableb";
    ip("link", "set", cable, "netns", space);
    ip("-n", space, "addr", "add", `10.231.88.${i + 1}/24`, "dev", cable);
    ip("-n", space, "link", "set", cable, "up");
    ip("-n", space, "link", "set", "lo", "up");
    const rate = ["rate", `${mbit}mbit`, "burst", "256k", "latency", "50ms"];
    ip("netns", "exec", space, "tc", "qdisc", "add", "dev", cable, "root", "tbf", ...rate);
  }
}

async function main(): Promise<void> {
  const { mbit } = values;
  if (mbit !== undefined) layCable(mbit);
  const port = mbit === undefined ? await freePort() : 29_500;
  const program = [process.execPath, fileURLToPath(import.meta.url), ...process.argv.slice(2)];
  try {
    const codes = [0, 1].map(async (rank) => {
      const [file, ...args] = mbit === undefined ? program : ["ip", "netns", "exec", spaces[rank]!, ...program];
      const child = spawn(file!, args, {
        stdio: ["ignore", "pipe", "inherit"],
        env: {
          ...process.env,
          B2_THREADS: "1",
          RANK: String(rank),
          WORLD_SIZE: "2",
          MASTER_ADDR: mbit === undefined ? "127.0.0.1" : "10.231.88.1",
          MASTER_PORT: String(port),
        },
      });
      createInterface({ input: child.stdout }).on("line", (line) => console.log(line));
      const [code] = (await once(child, "close")) as [number | null];
      if (code !== 0) throw new Error(`Expected rank ${rank} to finish but it ended with ${code}`);
    });
    await Promise.all(codes);
  } finally {
    if (mbit !== undefined) for (const space of spaces) ip("netns", "del", space);
  }
}

await (process.env["RANK"] === undefined ? main() : work());
