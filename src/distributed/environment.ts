/**
 * Which of several workers this process is, from the environment that its launcher has set: torchrun and whatever sets
 * PyTorch's variables (PyTorchJob, `b2 launch`), Slurm's srun, Open MPI's mpirun, and Kubeflow Trainer's PET_*, which are
 * torchrun's arguments as variables.
 *
 * Sources: torch/distributed/run.py and elastic/agent/server (torchrun), Slurm's srun(1), Open MPI's mpirun(1), and
 * pkg/constants of Kubeflow Trainer v2.
 */
import { listOf, show } from "../base/show.js";
import { WorkerError } from "./error.js";
import { firstHost } from "./host-list.js";

export type Environment = Readonly<Record<string, string | undefined>>;

/** One worker's place among all of them. */
export interface Place {
  readonly launcher: "torchrun" | "pytorch" | "slurm" | "openmpi" | "kubeflow";
  readonly rank: number;
  readonly size: number;
  /** Among the workers of its host: the number of its card. */
  readonly localRank: number;
  /** Of the store where the workers meet. */
  readonly host: string;
  readonly port: number;
  /** Whether this worker serves the store: rank 0, unless torchrun's agent does. */
  readonly isServer: boolean;
  /** Of all keys in the store: another one for each attempt of a launcher that restarts workers. */
  readonly prefix: string;
}

const DEFAULT_PORT = 29500;

/**
 * The place that the environment gives this process; undefined where no launcher has started it, or it is alone.
 *
 * @throws WorkerError when variables are missing or are no numbers, naming them
 */
export function placeOf(environment: Environment): Place | undefined {
  const place =
    ofPyTorch(environment) ?? ofKubeflow(environment) ?? ofSlurm(environment) ?? ofOpenMpi(environment) ?? undefined;
  return place === undefined || place.size === 1 ? undefined : checked(place);
}

function checked(place: Place): Place {
  if (place.rank < place.size) return place;
  throw new WorkerError(`Expected a rank below the ${place.size} workers but received ${place.rank}`);
}

/** Workers meet under another prefix at each attempt, so that what a dead one has left is not taken for the living. */
const prefixOf = (attempt: string): string => `/worker/attempt_${attempt}`;

function ofPyTorch(environment: Environment): Place | undefined {
  const names = ["RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"] as const;
  if (environment["RANK"] === undefined && environment["WORLD_SIZE"] === undefined) return undefined;
  if (environment["WORLD_SIZE"] === "1") return undefined;
  expectAll(environment, names);
  const isTorchrun = environment["TORCHELASTIC_RUN_ID"] !== undefined;
  const rank = numberOf(environment, "RANK");
  // The agent serves the store then, so that rank 0 is a client like all others.
  const isAgents = environment["TORCHELASTIC_USE_AGENT_STORE"] === "True";
  return {
    launcher: isTorchrun ? "torchrun" : "pytorch",
    rank,
    size: numberOf(environment, "WORLD_SIZE", 1),
    localRank: numberOr(environment, "LOCAL_RANK", 0),
    host: environment["MASTER_ADDR"]!,
    port: portOf(environment, "MASTER_PORT"),
    isServer: rank === 0 && !isAgents,
    prefix: prefixOf(environment["TORCHELASTIC_RESTART_COUNT"] ?? "0"),
  };
}

/** Kubeflow's variables as they are: one worker on each node. Several take a launcher. */
function ofKubeflow(environment: Environment): Place | undefined {
  const launch = launchFrom(environment);
  if (launch === undefined) return undefined;
  if (launch.processes !== undefined && launch.processes > 1) {
    throw new WorkerError(
      `Expected one worker on each node but PET_NPROC_PER_NODE is ${launch.processes}; start with b2 launch -- run, ` +
        "which reads PET_*",
    );
  }
  if (launch.nodes === 1) return undefined;
  expectAll(environment, ["PET_NODE_RANK", "PET_MASTER_ADDR"]);
  const { nodes, nodeRank, host, port } = launch;
  return {
    launcher: "kubeflow",
    rank: nodeRank!,
    size: nodes,
    localRank: 0,
    host: host!,
    port,
    isServer: nodeRank === 0,
    prefix: prefixOf("0"),
  };
}

/** What Kubeflow's PET_* ask a launcher for. */
export interface LaunchRequest {
  readonly nodes: number;
  /** On each node; undefined for as many as it has cards ("auto", "gpu"). */
  readonly processes: number | undefined;
  readonly nodeRank: number | undefined;
  readonly host: string | undefined;
  readonly port: number;
}

/** What PET_* ask for; undefined where PET_NNODES is not set. @throws WorkerError naming a variable that is no number */
export function launchFrom(environment: Environment): LaunchRequest | undefined {
  if (environment["PET_NNODES"] === undefined) return undefined;
  const processes = environment["PET_NPROC_PER_NODE"] ?? "1";
  const isAuto = ["auto", "gpu", "cpu"].includes(processes);
  const hasRank = environment["PET_NODE_RANK"] !== undefined;
  return {
    nodes: numberOf(environment, "PET_NNODES", 1),
    processes: isAuto ? undefined : numberOr(environment, "PET_NPROC_PER_NODE", 1, 1),
    nodeRank: hasRank ? numberOf(environment, "PET_NODE_RANK") : undefined,
    host: environment["PET_MASTER_ADDR"],
    port: environment["PET_MASTER_PORT"] === undefined ? DEFAULT_PORT : portOf(environment, "PET_MASTER_PORT"),
  };
}

/** A task of srun. The script of sbatch is none, although it has most of the variables: it has no step. */
function ofSlurm(environment: Environment): Place | undefined {
  if (!/^\d+$/.test(environment["SLURM_STEP_ID"] ?? "") || environment["SLURM_PROCID"] === undefined) return undefined;
  const sizeName = environment["SLURM_STEP_NUM_TASKS"] === undefined ? "SLURM_NTASKS" : "SLURM_STEP_NUM_TASKS";
  const listName = environment["SLURM_STEP_NODELIST"] === undefined ? "SLURM_JOB_NODELIST" : "SLURM_STEP_NODELIST";
  expectAll(environment, [sizeName, listName, "SLURM_JOB_ID"]);
  const rank = numberOf(environment, "SLURM_PROCID");
  return {
    launcher: "slurm",
    rank,
    size: numberOf(environment, sizeName, 1),
    localRank: numberOr(environment, "SLURM_LOCALID", 0),
    host: environment["MASTER_ADDR"] ?? firstHost(environment[listName]!),
    port: masterPortOr(environment, portOfJob(numberOf(environment, "SLURM_JOB_ID"))),
    isServer: rank === 0,
    prefix: prefixOf(`${environment["SLURM_STEP_ID"]!}.${environment["SLURM_RESTART_COUNT"] ?? "0"}`),
  };
}

/** Another port for each job, below those that systems give to outgoing connections. */
const portOfJob = (job: number): number => 10_000 + (job % 20_000);

function ofOpenMpi(environment: Environment): Place | undefined {
  if (environment["OMPI_COMM_WORLD_RANK"] === undefined) return undefined;
  expectAll(environment, ["OMPI_COMM_WORLD_SIZE"]);
  const rank = numberOf(environment, "OMPI_COMM_WORLD_RANK");
  const size = numberOf(environment, "OMPI_COMM_WORLD_SIZE", 1);
  const isOneHost = numberOr(environment, "OMPI_COMM_WORLD_LOCAL_SIZE", 0) === size;
  const host = environment["MASTER_ADDR"] ?? (isOneHost ? "127.0.0.1" : undefined);
  if (host === undefined) {
    throw new WorkerError(
      "Expected MASTER_ADDR, the host of rank 0, beside Open MPI's variables but received none; start with mpirun -x " +
        "MASTER_ADDR=<host>",
    );
  }
  return {
    launcher: "openmpi",
    rank,
    size,
    localRank: numberOr(environment, "OMPI_COMM_WORLD_LOCAL_RANK", 0),
    host,
    port: masterPortOr(environment, DEFAULT_PORT),
    isServer: rank === 0,
    prefix: prefixOf("0"),
  };
}

function expectAll(environment: Environment, names: readonly string[]): void {
  const missing = names.filter((name) => (environment[name] ?? "") === "");
  if (missing.length === 0) return;
  const are = missing.length === 1 ? "is" : "are";
  throw new WorkerError(`Expected ${listOf(names, "and")} together but ${listOf(missing, "and")} ${are} not set`);
}

function numberOf(environment: Environment, name: string, least = 0): number {
  const text = environment[name] ?? "";
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= least) return value;
  throw new WorkerError(`Expected a whole number from ${least} for ${name} but received ${show(text)}`);
}

const numberOr = (environment: Environment, name: string, otherwise: number, least = 0): number =>
  environment[name] === undefined ? otherwise : numberOf(environment, name, least);

function portOf(environment: Environment, name: string): number {
  const port = numberOf(environment, name, 1);
  if (port < 65_536) return port;
  throw new WorkerError(`Expected a port from 1 to 65535 for ${name} but received ${port}`);
}

const masterPortOr = (environment: Environment, otherwise: number): number =>
  environment["MASTER_PORT"] === undefined ? otherwise : portOf(environment, "MASTER_PORT");
