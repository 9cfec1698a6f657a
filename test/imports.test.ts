/**
 * Holds the import graph of src/ to the layers of docs/architecture.md: imports point one way, and no circle exists
 * between modules as they are loaded (types may look back: `import type` is gone by then).
 */
import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { test } from "node:test";
import ts from "typescript";

const root = resolve(import.meta.dirname, "../..");
const source = join(root, "src");

/** What each folder of src/ may import, besides itself and npm packages. */
const MAY_IMPORT: Record<string, readonly string[]> = {
  torch: [],
  images: ["torch"],
  tokenizer: ["torch"],
  safetensors: ["torch"],
  optim: ["torch", "safetensors"],
  schedulers: ["torch"],
  nn: ["torch", "safetensors"],
  hub: [],
  runs: ["safetensors"],
  models: ["torch", "safetensors", "nn"],
  "single-file": ["torch", "safetensors", "nn", "models"],
  lora: ["torch", "safetensors", "nn", "single-file"],
  pipeline: ["torch", "models", "schedulers", "tokenizer", "single-file"],
  rewards: ["torch", "models", "tokenizer", "images"],
  world: ["torch", "safetensors", "nn", "models", "images"],
};

/** What every file of a tree imports from the same tree, by the statements that stand in it. */
function graphOf(tree: string, extension: ".ts" | ".js"): Map<string, string[]> {
  const files = readdirSync(tree, { recursive: true, encoding: "utf8" }).filter(
    (file) => file.endsWith(extension) && !file.includes(".test.") && existsSync(join(source, sourceName(file))),
  );
  const importsOf = (file: string): string[] =>
    ts
      .preProcessFile(readFileSync(file, "utf8"), true, true)
      .importedFiles.map((imported) => imported.fileName)
      .filter((name) => name.startsWith("."))
      .map((name) => resolve(dirname(file), name.replace(/\.js$/, extension)));
  return new Map(files.map((file) => [join(tree, file), importsOf(join(tree, file))]));
}

const sourceName = (file: string): string => file.replace(/\.js$/, ".ts");
const folderOf = (file: string): string => relative(source, file).split("/")[0]!;

test("imports between folders point one way", () => {
  for (const [file, imports] of graphOf(source, ".ts")) {
    const allowed = MAY_IMPORT[folderOf(file)];
    if (allowed === undefined) continue; // b2, cli and index.ts stand on top of everything.
    for (const imported of imports) {
      const folder = folderOf(imported);
      assert.ok(
        folder === folderOf(file) || folder === "base" || allowed.includes(folder),
        `${relative(root, file)} imports ${relative(root, imported)}, but src/${folderOf(file)} may only import ${allowed.join(", ") || "nothing"}`,
      );
    }
  }
});

test("the modules load without a circle", () => {
  const graph = graphOf(join(root, "dist/src"), ".js");
  const state = new Map<string, "open" | "done">();
  const visit = (file: string, path: readonly string[]): void => {
    if (state.get(file) === "done") return;
    assert.notEqual(state.get(file), "open", `circle: ${[...path, file].map((f) => relative(root, f)).join(" -> ")}`);
    state.set(file, "open");
    for (const next of graph.get(file) ?? []) visit(next, [...path, file]);
    state.set(file, "done");
  };
  for (const file of graph.keys()) visit(file, []);
  assert.ok(graph.size > 100, `${graph.size} modules`);
});
