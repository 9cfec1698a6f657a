/**
 * Holds the import graph of src/ to the rooms of docs/architecture.md: imports point one way, and no circle of files
 * exists, types included.
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import ts from "typescript";
import { repository } from "./support/folders.js";

const source = join(repository, "src");

/** What each room may import besides itself, src/base and npm packages. A room's own rooms are named apart. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  base: [],
  torch: [],
  images: ["torch"],
  tokenizer: ["torch"],
  safetensors: ["torch"],
  optim: ["torch", "safetensors"],
  schedulers: ["torch"],
  nn: ["torch", "safetensors"],
  hub: [],
  runs: ["safetensors"],
  distributed: ["torch"],
  models: ["torch", "safetensors", "nn"],
  "single-file": ["torch", "safetensors", "nn", "models"],
  lora: ["torch", "safetensors", "nn", "single-file"],
  world: ["torch", "safetensors", "nn", "models", "images"],
  annotate: [],
  rewards: ["torch", "safetensors", "models", "single-file", "tokenizer", "images", "runs", "annotate"],
  pipeline: ["torch", "hub", "nn", "models", "schedulers", "tokenizer", "single-file"],
  "b2/objectives": ["torch", "schedulers", "b2"],
  "b2/config": ["schedulers", "rewards", "pipeline", "b2/objectives"],
  "b2/policy": [
    "torch",
    "hub",
    "nn",
    "lora",
    "safetensors",
    "schedulers",
    "pipeline",
    "runs",
    "b2",
    "b2/config",
    "b2/objectives",
  ],
  "b2/rollout": ["torch", "images", "world", "distributed", "rewards", "b2", "b2/config", "b2/objectives", "b2/policy"],
  "b2/probe": ["torch", "rewards", "runs", "b2/config", "b2/policy", "b2/rollout"],
  "b2/update": [
    "torch",
    "optim",
    "pipeline",
    "runs",
    "distributed",
    "b2",
    "b2/config",
    "b2/objectives",
    "b2/policy",
    "b2/rollout",
  ],
  "b2/record": ["torch", "safetensors", "runs", "b2", "b2/objectives"],
  b2: ["torch", "hub", "optim", "safetensors", "schedulers", "pipeline", "rewards", "runs", "distributed"],
  eval: ["torch", "hub", "images", "rewards", "runs", "world", "distributed", "b2"],
  compare: ["images", "runs", "eval", "b2"],
  doctor: ["torch", "hub", "nn", "optim", "models", "tokenizer", "schedulers", "lora", "pipeline", "rewards", "b2"],
  cli: [
    "torch",
    "hub",
    "annotate",
    "images",
    "lora",
    "pipeline",
    "rewards",
    "runs",
    "safetensors",
    "eval",
    "compare",
    "b2",
    "doctor",
    "distributed",
  ],
};

/** Rooms whose inner rooms all may be imported where the room may. */
const isWithin = (room: string, allowed: string): boolean => room === allowed || room.startsWith(`${allowed}/`);

/** What every file of src/ imports from src/, types too. */
function importGraph(): Map<string, string[]> {
  const files = readdirSync(source, { recursive: true, encoding: "utf8" })
    .filter((file) => file.endsWith(".ts") && !/\.(test|fixture)\.ts$/.test(file))
    .map((file) => join(source, file));
  return new Map(files.map((file) => [file, importsOf(file)]));
}

function importsOf(file: string): string[] {
  const { importedFiles } = ts.preProcessFile(readFileSync(file, "utf8"), true, true);
  return importedFiles
    .map(({ fileName }) => fileName)
    .filter((name) => name.startsWith("."))
    .map((name) => resolve(dirname(file), name.replace(/\.js$/, ".ts")));
}

/** "torch", "b2/config", or "" for src/index.ts. */
function roomOf(file: string): string {
  const folders = dirname(relative(source, file));
  if (folders === ".") return "";
  const known = Object.keys(MAY_IMPORT).filter((room) => folders === room || folders.startsWith(`${room}/`));
  return known.sort((a, b) => b.length - a.length)[0] ?? folders;
}

const graph = importGraph();

test("imports between rooms point one way, and every room is known", () => {
  assert.ok(graph.size > 150, `${graph.size} files`);
  for (const [file, imports] of graph) {
    const room = roomOf(file);
    if (room === "") continue; // src/index.ts stands on top of everything.
    const allowed = MAY_IMPORT[room];
    assert.ok(allowed !== undefined, `${relative(repository, file)} is in a room that this test does not know`);
    for (const imported of imports) {
      assert.ok(existsSync(imported), `${relative(repository, file)} imports ${relative(repository, imported)}`);
      const other = roomOf(imported);
      // src/b2's own files are the loop over its rooms.
      const isOwn = isWithin(other, room);
      assert.ok(
        isOwn ||
          other === "base" ||
          allowed.some((one) => (one === "b2" && room.startsWith("b2/") ? other === one : isWithin(other, one))),
        `${relative(repository, file)} imports ${relative(repository, imported)}, but src/${room} may import ${allowed.join(", ") || "nothing"}`,
      );
    }
  }
});

test("there is no circle of files, not even of types", () => {
  const state = new Map<string, "open" | "done">();
  const visit = (file: string, path: readonly string[]): void => {
    if (state.get(file) === "done") return;
    const circle = [...path.slice(path.indexOf(file)), file].map((one) => relative(source, one));
    assert.notEqual(state.get(file), "open", `circle: ${circle.join(" -> ")}`);
    state.set(file, "open");
    for (const next of graph.get(file) ?? []) visit(next, [...path, file]);
    state.set(file, "done");
  };
  for (const file of graph.keys()) visit(file, []);
});

test("what is above the pipelines names no part of Stable Diffusion", () => {
  const parts = /\b(unet|vae|ddim)\b/i;
  for (const file of graph.keys()) {
    if (!/^(b2|cli|runs|eval)\b/.test(roomOf(file))) continue;
    const lines = readFileSync(file, "utf8").split("\n");
    // What versions before called things, and the default scheduler's name.
    const named = lines.filter((line) => parts.test(line) && !ALLOWED.some((one) => line.includes(one)));
    assert.deepEqual(named, [], relative(repository, file));
  }
});

const ALLOWED = ['"unet"', "vaeTiling", 'scheduler: "ddim"', '{ name: "ddim" }'];
