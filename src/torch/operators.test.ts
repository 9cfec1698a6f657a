/** Holds every declared operator against the schema of the libtorch that runs. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, it, test } from "node:test";
import { native } from "./native.js";
import { declarations, hasOperator, type Declaration } from "./op.js";
import "./index.js";

/** A schema's type as we declare it: symbolic and fixed-length integers are integers to us. */
function plain(type: string): string {
  return type
    .replaceAll("SymInt", "int")
    .replace(/\[\d+\]/, "[]")
    .replaceAll("Optional", "");
}

/** What a declaration's result is in the schema's words. */
const RETURNS: Record<Declaration["returns"], { types: string[]; inPlace: boolean }> = {
  Tensor: { types: ["Tensor"], inPlace: false },
  self: { types: ["Tensor"], inPlace: true },
  "Tensor[]": { types: ["Tensor[]"], inPlace: false },
  bool: { types: ["bool"], inPlace: false },
  void: { types: [], inPlace: false },
};

describe("declared operators match the live schema", () => {
  for (const declaration of declarations) {
    it(declaration.name, { skip: declaration.optional && !hasOperator(declaration.name) }, () => {
      const operator = native.findOperator(declaration.name);
      assert.ok(operator >= 0, "this libtorch has no such operator");
      const schema = native.schema(operator);
      declaration.argumentTypes.forEach((type, i) => {
        const argument = schema.arguments[i];
        assert.ok(argument !== undefined, `there is no argument ${i}: ${schema.text}`);
        assert.equal(type, plain(argument.type), `${argument.name} in ${schema.text}`);
      });
      for (const argument of schema.arguments.slice(declaration.argumentTypes.length)) {
        const mayBeLeftOut = argument.hasDefault || argument.type.endsWith("?");
        assert.ok(mayBeLeftOut, `${argument.name} has no default: ${schema.text}`);
      }
      const expected = RETURNS[declaration.returns];
      assert.deepEqual(
        schema.returns.map(({ type }) => plain(type)),
        expected.types,
        schema.text,
      );
      if (expected.types.length > 0) assert.equal(schema.returns[0]!.inPlace, expected.inPlace, schema.text);
    });
  }
});

test("no operator is declared twice", () => {
  const names = declarations.map(({ name }) => name);
  assert.deepEqual(
    names.filter((name, i) => names.indexOf(name) !== i),
    [],
  );
});

test("every operator that the project uses stands in the table", () => {
  const root = resolve(import.meta.dirname, "../../..");
  const own = join(root, "src/torch");
  const files = ["src", "bench", "scripts", "examples"]
    .flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, encoding: "utf8" }).map((name) => join(root, folder, name)),
    )
    .filter((file) => file.endsWith(".ts") && !file.endsWith(".test.ts") && !file.startsWith(own));
  assert.ok(files.length > 100, `${files.length} files`);
  assert.deepEqual(
    files.filter((file) => /\bop\(/.test(readFileSync(file, "utf8"))),
    [],
  );
});
