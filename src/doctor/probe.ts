/**
 * Loads native code and says what it is: `node dist/src/doctor/probe.js torch|images` prints one line of JSON. It is a
 * program of its own, because a library that was built for another machine can end the process that loads it.
 */
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import {
  computeProblem,
  deviceCount,
  inference,
  matmul,
  numThreads,
  tidy,
  torchVersion,
  zeros,
  type Device,
} from "../torch/index.js";
import { dtypes, type ImageFacts, type TorchFacts } from "./facts.js";

const MATRIX = 512;

/** The best of five, since this is no benchmark: a reference BLAS is fifty times slower. */
function gigaflops(): number {
  return inference(() => {
    const a = zeros([MATRIX, MATRIX]).add(1);
    const seconds = Array.from({ length: 5 }, () => {
      const start = performance.now();
      tidy(() => matmul(a, a));
      return (performance.now() - start) / 1000;
    });
    return (2 * MATRIX ** 3) / (Math.min(...seconds) * 1e9);
  });
}

/** The file of a BLAS among the libraries of this process; only Linux lists them. */
function blas(): string | null {
  if (process.platform !== "linux") return null;
  const files = readFileSync("/proc/self/maps", "utf8").match(/\/\S+$/gm) ?? [];
  const named = (name: RegExp): string | undefined => files.find((file) => name.test(file.split("/").at(-1)!));
  return named(/openblas|mkl_(core|rt)|blis|nvpl_blas|armpl/) ?? named(/^libblas/) ?? null;
}

function torch(): TorchFacts {
  const version = torchVersion();
  const devices = { cuda: deviceCount("cuda"), mps: deviceCount("mps") };
  const present: Device[] = ["cpu", ...(["cuda", "mps"] as const).filter((kind) => devices[kind] > 0)];
  const computing = present.map((device) => [
    device,
    dtypes.filter((dtype) => computeProblem(device, dtype) === undefined),
  ]);
  const speed = gigaflops();
  return {
    version,
    threads: numThreads(),
    devices,
    dtypes: Object.fromEntries(computing) as TorchFacts["dtypes"],
    blas: blas(),
    openBlasCore: process.env["OPENBLAS_CORETYPE"] ?? null,
    gigaflops: speed,
  };
}

async function images(): Promise<ImageFacts> {
  const require = createRequire(import.meta.url);
  const svg = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>';
  const tried = async (work: () => Promise<unknown>): Promise<string | null> => work().then(() => null, messageOf);
  return {
    sharp: await tried(async () => {
      const { default: sharp } = await import("sharp");
      await sharp({ create: { width: 8, height: 8, channels: 3, background: "red" } })
        .png()
        .toBuffer();
    }),
    resvg: await tried(async () => {
      const { Resvg } = await import("@resvg/resvg-js");
      new Resvg(svg).render().asPng();
      require.resolve("@expo-google-fonts/inter/400Regular/Inter_400Regular.ttf");
    }),
  };
}

/** The innermost reason, on one line. */
function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error.cause instanceof Error) return messageOf(error.cause);
  return error.message.trim().split("\n", 1)[0]!;
}

const probe = { torch, images }[process.argv[2] as "torch" | "images"];
const said = await Promise.resolve()
  .then<object>(probe)
  .catch((error: unknown) => ({ failure: messageOf(error) }));
process.stdout.write(JSON.stringify(said));
