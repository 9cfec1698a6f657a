// Launchers' variables, as torchrun, Slurm, Open MPI and Kubeflow set them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { temporaryFolder } from "../../test/support/folders.js";
import { firstHost } from "./host-list.js";
import { launchFrom, placeOf, WorkerError, writeErrorFile } from "./index.js";

const torchrun = {
  RANK: "0",
  LOCAL_RANK: "0",
  WORLD_SIZE: "4",
  LOCAL_WORLD_SIZE: "2",
  GROUP_RANK: "0",
  MASTER_ADDR: "node1",
  MASTER_PORT: "29511",
  TORCHELASTIC_RESTART_COUNT: "2",
  TORCHELASTIC_RUN_ID: "none",
  TORCHELASTIC_USE_AGENT_STORE: "True",
};

const slurm = {
  SLURM_JOB_ID: "123456",
  SLURM_STEP_ID: "0",
  SLURM_PROCID: "3",
  SLURM_LOCALID: "1",
  SLURM_NTASKS: "8",
  SLURM_STEP_NUM_TASKS: "4",
  SLURM_NNODES: "2",
  SLURM_JOB_NODELIST: "gpu[007-008]",
};

const openMpi = {
  OMPI_COMM_WORLD_RANK: "1",
  OMPI_COMM_WORLD_SIZE: "2",
  OMPI_COMM_WORLD_LOCAL_RANK: "1",
  OMPI_COMM_WORLD_LOCAL_SIZE: "2",
};

const kubeflow = {
  PET_NNODES: "2",
  PET_NPROC_PER_NODE: "1",
  PET_NODE_RANK: "1",
  PET_MASTER_ADDR: "job-node-0-0.job",
  PET_MASTER_PORT: "29500",
};

test("under torchrun its agent serves the store, and every attempt has a prefix of its own", () => {
  assert.deepEqual(placeOf(torchrun), {
    launcher: "torchrun",
    rank: 0,
    size: 4,
    localRank: 0,
    host: "node1",
    port: 29511,
    isServer: false,
    prefix: "/worker/attempt_2",
  });
  assert.equal(placeOf({ ...torchrun, TORCHELASTIC_USE_AGENT_STORE: "False" })!.isServer, true);
  assert.equal(placeOf({ ...torchrun, RANK: "1", TORCHELASTIC_USE_AGENT_STORE: "False" })!.isServer, false);
});

test("PyTorch's four variables are enough", () => {
  const place = placeOf({ RANK: "1", WORLD_SIZE: "2", MASTER_ADDR: "10.0.0.1", MASTER_PORT: "23456" })!;
  assert.deepEqual([place.launcher, place.rank, place.size, place.isServer], ["pytorch", 1, 2, false]);
});

test("a task of srun meets the others on the first host, at a port of its job", () => {
  const place = placeOf(slurm)!;
  assert.deepEqual(place, {
    launcher: "slurm",
    rank: 3,
    size: 4,
    localRank: 1,
    host: "gpu007",
    port: 10_000 + (123456 % 20_000),
    isServer: false,
    prefix: "/worker/attempt_0.0",
  });
  // The script of sbatch itself, which has no step.
  assert.equal(placeOf({ ...slurm, SLURM_STEP_ID: undefined }), undefined);
});

test("hosts in Slurm's short form", () => {
  for (const [list, first] of [
    ["n[001-004]", "n001"],
    ["n[3,7-9],m1", "n3"],
    ["login,n[1-2]", "login"],
    ["r1[2-3].cluster", "r12.cluster"],
  ] as const) {
    assert.equal(firstHost(list), first);
  }
  assert.throws(() => firstHost("[1-2]"), WorkerError);
});

test("Open MPI on one host needs no address, on several it does", () => {
  const place = placeOf(openMpi)!;
  assert.deepEqual([place.host, place.port, place.rank, place.size], ["127.0.0.1", 29500, 1, 2]);
  const two = { ...openMpi, OMPI_COMM_WORLD_LOCAL_SIZE: "1" };
  assert.throws(() => placeOf(two), { name: "WorkerError", message: /^Expected MASTER_ADDR, the host of rank 0/ });
  assert.equal(placeOf({ ...two, MASTER_ADDR: "head" })!.host, "head");
});

test("Kubeflow's PET_* are one worker on each node, or a request to a launcher", () => {
  const place = placeOf(kubeflow)!;
  assert.deepEqual([place.rank, place.size, place.host, place.port], [1, 2, "job-node-0-0.job", 29500]);
  assert.throws(() => placeOf({ ...kubeflow, PET_NPROC_PER_NODE: "4" }), /start with b2 launch/);
  assert.deepEqual(launchFrom({ ...kubeflow, PET_NPROC_PER_NODE: "auto" }), {
    nodes: 2,
    processes: undefined,
    nodeRank: 1,
    host: "job-node-0-0.job",
    port: 29500,
  });
});

test("a process without a launcher, or the only one, is alone", () => {
  assert.equal(placeOf({}), undefined);
  assert.equal(placeOf({ ...torchrun, WORLD_SIZE: "1" }), undefined);
  assert.equal(placeOf({ ...slurm, SLURM_PROCID: "0", SLURM_STEP_NUM_TASKS: "1" }), undefined);
});

test("what is missing or no number is named", () => {
  assert.throws(() => placeOf({ ...torchrun, MASTER_PORT: undefined }), {
    name: "WorkerError",
    message: "Expected RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT together but MASTER_PORT is not set",
  });
  assert.throws(() => placeOf({ ...torchrun, RANK: "-1" }), {
    message: 'Expected a whole number from 0 for RANK but received "-1"',
  });
  assert.throws(() => placeOf({ ...torchrun, RANK: "4" }), {
    message: "Expected a rank below the 4 workers but received 4",
  });
  assert.throws(() => placeOf({ ...torchrun, MASTER_PORT: "70000" }), {
    message: "Expected a port from 1 to 65535 for MASTER_PORT but received 70000",
  });
});

test("torchrun's error file says why, in its own form", () => {
  const file = join(temporaryFolder(), "error.json");
  writeErrorFile("Expected rank 1 to go on", { TORCHELASTIC_ERROR_FILE: file });
  const { message } = JSON.parse(readFileSync(file, "utf8")) as {
    message: { message: string; extraInfo: { timestamp: string } };
  };
  assert.equal(message.message, "Expected rank 1 to go on");
  assert.match(message.extraInfo.timestamp, /^\d{10}$/);
  writeErrorFile("nowhere", { TORCHELASTIC_ERROR_FILE: "/proc/nowhere/error.json" });
});
