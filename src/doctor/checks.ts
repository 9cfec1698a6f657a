/**
 * The checks of `b2 doctor`: what a run needs and what makes it slow. Each is a small function that says what it found
 * and how to mend it. None computes anything; smoke.ts does.
 */
import { accessSync, constants } from "node:fs";
import { availableParallelism, release } from "node:os";
import { packageRoot } from "../base/package-root.js";
import { listOf } from "../base/show.js";
import { hubCache, hubEndpoint, hubToken, isOffline } from "../hub/environment.js";
import { chosenThreads } from "../torch/environment.js";
import { absent, gigabytes, good, printableIn, problem, warning, type Answer, type Finding } from "./finding.js";
import { cgroupCpus, disk, memory } from "./limits.js";
import { failed, inspectMachine, type Libtorch, type Machine } from "./machine.js";
import { firstLine } from "./run.js";

const SETUP = "npx b2 setup";
/** LIBTORCH decides for good what is loaded, so it must be right, or not be set. */
const SETUP_ANEW = process.env["LIBTORCH"] ? `${SETUP}, with LIBTORCH unset or naming another folder` : SETUP;
/** What Debian's reference BLAS stays far below on any processor, and every other BLAS above. */
const SLOW_GIGAFLOPS = 5;
/** Too little for anything but the embedded model. */
const LITTLE_MEMORY = 2e9;
/** Stable Diffusion in half precision and the CLIP of its reward. */
const LITTLE_DISK = 8e9;

const PROXY_VARIABLES = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy"];

const checks: Readonly<Record<string, (machine: Machine) => Answer | Promise<Answer>>> = {
  package: ({ manifest: { version } }) => good(`b2-diffurl ${String(version)} in ${packageRoot()}`, { version }),

  Node: ({ manifest }) => {
    const { node: wanted } = manifest["engines"] as { node: string };
    const facts = { version: process.version, platform: process.platform, arch: process.arch, release: release() };
    const here = `${process.version} on ${process.platform} ${process.arch} (${release()})`;
    return isAtLeast(process.version, wanted) ? good(here, facts) : problem(here, `install Node ${wanted}`, facts);
  },

  npm: async () => {
    const ran = await firstLine("npm", ["--version"]);
    if (!("output" in ran)) return warning(`does not answer: ${ran.failure}`);
    const note = isAtLeast(ran.output, "12") ? `, which builds no addon at npm install: ${SETUP} does` : "";
    return good(`${ran.output}${note}`, { version: ran.output });
  },

  libtorch: ({ build: { root, libtorch }, torch }) => {
    if (root === undefined) return absent(`none in use yet; ${SETUP} finds or downloads one`);
    if (libtorch === undefined) {
      return failed(torch)
        ? problem(`there is none in ${root}`, SETUP_ANEW)
        : warning(`${torch.version} in ${root}, without the headers that building the addon again takes`);
    }
    const { version, defines } = libtorch;
    const [cuda, cxx11Abi] = [isForCuda(libtorch), defines.includes("_GLIBCXX_USE_CXX11_ABI=1")];
    const kind = `${cuda ? "with" : "without"} CUDA${cxx11Abi ? "" : ", old C++ ABI"}`;
    return good(`${version} in ${root}, ${kind}`, { root, version, cuda, cxx11Abi });
  },

  addon: ({ torch, build: { root, version, exists, libtorch } }) => {
    const facts = { root, version };
    if (!exists) return problem(root === undefined ? "is not built" : `is not built for ${root}`, SETUP_ANEW, facts);
    if (failed(torch)) {
      const why = torch.failure.replace(` Run: ${SETUP}`, ""); // which is said below
      return problem(`is built for ${root} but does not load: ${why}`, SETUP_ANEW, facts);
    }
    if (version !== undefined && libtorch !== undefined && libtorch.version !== version) {
      return warning(`was built for libtorch ${version}, but ${root} is ${libtorch.version} now`, SETUP, facts);
    }
    return good(`loads libtorch ${torch.version}`, { ...facts, loaded: torch.version });
  },

  compiler: async () => {
    const [compiler, make] = await Promise.all([
      firstLine(process.env["CXX"] || "c++", ["--version"]),
      firstLine("make", ["--version"]),
    ]);
    if ("output" in compiler && "output" in make) return good(`${compiler.output}; ${make.output}`);
    const silent = Object.entries({ "a C++ compiler": compiler, make }).filter(([, ran]) => !("output" in ran));
    const missing = silent.map(([name]) => name);
    const fix = process.platform === "darwin" ? "xcode-select --install" : "sudo apt-get install g++ make";
    return warning(`building the addon takes ${listOf(missing, "and")}: no answer`, fix);
  },

  Python: async () => {
    const ran = await firstLine("python3", ["--version"]);
    if ("output" in ran) return good(ran.output);
    return warning(`building the addon takes python3: ${ran.failure}`, "sudo apt-get install python3");
  },

  BLAS: ({ torch }) => {
    if (failed(torch)) return absent("seen once the addon loads");
    const { blas, openBlasCore, gigaflops } = torch;
    const kernels =
      blas !== null && /openblas/.test(blas) && openBlasCore !== null ? `, kernels for ${openBlasCore}` : "";
    const name = `${blas ?? "a part of libtorch"}${kernels}`;
    const speed = `a matrix product reaches ${gigaflops.toFixed(0)} GFLOP/s`;
    const facts = { file: blas, openBlasCore, gigaflops };
    if (gigaflops >= SLOW_GIGAFLOPS) return good(`${name}; ${speed}`, facts);
    const fix = process.platform === "linux" ? "sudo apt-get install libopenblas0-pthread" : undefined;
    return warning(`${name}; ${speed} only, as without a fast BLAS or on a busy machine`, fix, facts);
  },

  threads: () => {
    const [threads, cores, cpus] = [chosenThreads(), availableParallelism(), cgroupCpus()];
    const asked = ["B2_THREADS", "OMP_NUM_THREADS"].filter((name) => process.env[name] !== undefined);
    const by = asked.map((name) => `${name}=${process.env[name]}`).join(", ");
    const limit = cpus === undefined ? "" : `, the control group allows ${cpus} CPUs`;
    const here = `${threads} on ${cores} cores${limit}${by === "" ? "" : ` (${by})`}`;
    const facts = { threads, cores, cgroupCpus: cpus };
    const most = Math.max(1, Math.floor(Math.min(cores, cpus ?? cores)));
    return threads > most
      ? warning(`${here}: more threads than CPUs wait for each other`, `export B2_THREADS=${most}`, facts)
      : good(here, facts);
  },

  memory: () => {
    const { total, available, limit } = memory();
    const within = limit === undefined ? "" : `, the control group allows ${gigabytes(limit)}`;
    const here = `${gigabytes(available)} of ${gigabytes(total)} free${within}`;
    const facts = { total, available, limit };
    return available < LITTLE_MEMORY
      ? warning(`${here}, enough for the embedded model alone`, undefined, facts)
      : good(here, facts);
  },

  CUDA: ({ torch, build, nvidiaSmi }) => {
    const gpus = failed(nvidiaSmi) ? [] : nvidiaSmi.gpus;
    const names = gpus.map(({ name, driver, memory, used }) => `${name}, ${used} of ${memory} used, driver ${driver}`);
    const says = failed(nvidiaSmi) ? nvidiaSmi.failure : names.join("; ") || "nvidia-smi names no GPU";
    const visible = process.env["CUDA_VISIBLE_DEVICES"];
    const hidden = visible === undefined ? "" : ` (CUDA_VISIBLE_DEVICES=${visible})`;
    const devices = failed(torch) ? 0 : torch.devices.cuda;
    const facts = { devices, gpus, visible };
    if (!failed(torch) && devices > 0) {
      return good(`${devices} of libtorch's${hidden}, ${precisions(torch.dtypes["cuda"])}; ${says}`, facts);
    }
    if (gpus.length === 0) return absent(`no device${hidden}; ${says}`, facts);
    if (failed(torch)) return absent(`${says}; whether libtorch sees it shows once the addon loads`, facts);
    return build.libtorch !== undefined && isForCuda(build.libtorch)
      ? warning(
          `libtorch sees no device${hidden}; ${says}`,
          "update the driver, or take an older CUDA's libtorch",
          facts,
        )
      : warning(`this libtorch is for CPUs; ${says}`, `B2_LIBTORCH=cu126 ${SETUP}`, facts);
  },

  MPS: ({ torch }) =>
    failed(torch) || torch.devices.mps === 0
      ? absent("no device")
      : good(`1 device, ${precisions(torch.dtypes["mps"])}`),

  models: () => {
    const cache = hubCache();
    const { folder, free } = disk(cache);
    const facts = { cache, free };
    try {
      accessSync(folder, constants.W_OK);
    } catch {
      return warning(
        `${folder} cannot be written to, so nothing can be downloaded into ${cache}`,
        "export HF_HUB_CACHE=<folder>",
        facts,
      );
    }
    const here = `${cache}, ${gigabytes(free)} free`;
    return free < LITTLE_DISK
      ? warning(`${here}: little for the models of Stable Diffusion`, "export HF_HUB_CACHE=<folder>", facts)
      : good(here, facts);
  },

  hub: () => {
    const [token, offline, endpoint] = [hubToken() !== undefined, isOffline(), withoutPassword(hubEndpoint())];
    const set = PROXY_VARIABLES.filter((name) => process.env[name]);
    const proxies = Object.fromEntries(set.map((name) => [name, withoutPassword(process.env[name]!)]));
    const proxy = set.map((name) => `${name}=${proxies[name]}`).join(", ") || "no proxy";
    const how = offline ? "offline, the cache alone is used" : "online";
    const facts = { endpoint, offline, token, proxies };
    return good(`${endpoint}, ${how}; ${token ? "a token is there" : "no token"}; ${proxy}`, facts);
  },

  images: ({ images }) => {
    if (failed(images)) return problem(`sharp and resvg could not be tried: ${images.failure}`, "npm install");
    const broken = Object.entries(images).filter(([, failure]) => failure !== null);
    if (broken.length === 0) return good("sharp and resvg load", images);
    return problem(
      broken.map(([name, failure]) => `${name} does not load: ${failure}`).join("; "),
      "npm install --include=optional",
      images,
    );
  },
};

/** Runs all checks, side by side; never throws. A check that cannot be done is a warning. */
export async function examine(): Promise<readonly Finding[]> {
  const machine = await inspectMachine();
  const findings = Object.entries(checks).map(async ([check, answer]): Promise<Finding> => {
    const found = await Promise.resolve(machine)
      .then(answer)
      .catch((error: unknown) => warning(`could not be checked: ${String(error)}`));
    return printableIn({ check, ...found });
  });
  return Promise.all(findings);
}

/** Whether b2 can compute on this machine. */
export const isUsable = (findings: readonly Finding[]): boolean => findings.every(({ state }) => state !== "problem");

const isForCuda = ({ libraries }: Libtorch): boolean => libraries.includes("-ltorch_cuda");

/** Whether a version, as "v20.19.2", is at least another, as ">=20.19". */
function isAtLeast(version: string, wanted: string): boolean {
  const [own, other] = [version, wanted].map((text) => text.replace(/^\D+/, "").split(".").map(Number)) as [
    number[],
    number[],
  ];
  const difference = other.map((number, i) => (own[i] ?? 0) - number).find((one) => one !== 0);
  return difference === undefined || difference > 0;
}

const precisions = (dtypes: readonly string[] = []): string => `computes in ${listOf(dtypes, "and") || "no dtype"}`;

/** A URL without the name and password that it may hold. */
const withoutPassword = (url: string): string => url.replace(/^([\w+]+:\/\/)?.*@/, "$1***@");
