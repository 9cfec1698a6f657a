/**
 * How a run scales with workers on this machine, over Gloo: strong (the same stage for more workers) and weak (a stage that
 * grows with them), in seconds of wall and processor time, and the share of time in communication.
 *
 *     npm run build && node dist/bench/scaling.js [--workers 1,2] [--roots 12] [--stages 2]
 *
 * Each worker has one thread. There should be as many idle cores as workers: on a busy machine wall times say little. The
 * embedded model trains as in the preset demo-b2, without evaluations. Times are of the slowest worker, from when all have
 * met and loaded their models; its time in communication includes the wait for others.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { WorkerTimes } from "./scaling-worker.js";

const { values } = parseArgs({
  options: {
    workers: { type: "string", default: "1,2" },
    roots: { type: "string", default: "12" },
    stages: { type: "string", default: "2" },
  },
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

/** The times of all workers of a training. */
async function train(size: number, roots: number): Promise<WorkerTimes[]> {
  const folder = mkdtempSync(join(tmpdir(), "b2-scaling-"));
  const port = await freePort();
  const program = fileURLToPath(new URL("scaling-worker.js", import.meta.url));
  const times = Array.from({ length: size }, async (_, rank) => {
    const child = spawn(process.execPath, [program, join(folder, "run"), String(roots), values.stages], {
      stdio: ["ignore", "pipe", "inherit"],
      env: {
        ...process.env,
        B2_THREADS: "1",
        RANK: String(rank),
        LOCAL_RANK: String(rank),
        WORLD_SIZE: String(size),
        MASTER_ADDR: "127.0.0.1",
        MASTER_PORT: String(port),
      },
    });
    let last = "";
    createInterface({ input: child.stdout }).on("line", (line) => (last = line));
    const [code] = (await once(child, "close")) as [number | null];
    if (code !== 0) throw new Error(`Expected rank ${rank} to finish but it ended with ${code}`);
    return JSON.parse(last) as WorkerTimes;
  });
  try {
    return await Promise.all(times);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const slowest = (times: readonly WorkerTimes[], of: (time: WorkerTimes) => number): number =>
  Math.max(...times.map(of));

const roots = Number(values.roots);
for (const kind of ["strong", "weak"] as const) {
  let alone: number | undefined;
  for (const size of values.workers.split(",").map(Number)) {
    const times = await train(size, kind === "weak" ? roots * size : roots);
    const wall = slowest(times, (time) => time.seconds);
    const processor = slowest(times, (time) => time.processorSeconds);
    const communication = slowest(times, (time) => time.communicationSeconds / time.seconds);
    alone ??= wall;
    const efficiency = kind === "strong" ? alone / wall / size : alone / wall;
    console.log(
      `${kind} ${size} workers: ${wall.toFixed(1)} s wall, ${processor.toFixed(1)} s of processor a worker, ` +
        `${(100 * communication).toFixed(1)}% in communication, efficiency ${(100 * efficiency).toFixed(0)}%`,
    );
  }
}
