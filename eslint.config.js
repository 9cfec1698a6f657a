import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import js from "@eslint/js";
import perfectionist from "eslint-plugin-perfectionist";
import tseslint from "typescript-eslint";

const root = import.meta.dirname;

/** Folders of src/ with an index.ts: what the others may import of them. */
const rooms = readdirSync(join(root, "src")).filter((name) => existsSync(join(root, "src", name, "index.ts")));

/** Files that are imported from beside a room's index.ts all the same. */
const besideIndex = [
  // For listing a run and its files without libtorch, which the index loads.
  "runs/reader.js",
  "safetensors/header.js",
];

/** Names are in the order that people look for them in: `a2` before `a10`, capitals among the rest. */
const natural = { type: "natural", order: "asc", ignoreCase: true };

/** @type {import("eslint").Linter.RulesRecord} */
const sorting = {
  // node:, packages, folders above from far to near, the own folder; without blank lines between.
  "perfectionist/sort-imports": [
    "error",
    {
      ...natural,
      groups: ["builtin", "external", "parent", ["sibling", "index"]],
      newlinesBetween: 0,
      newlinesInside: 0,
    },
  ],
  // import { a, b, type C } from
  "perfectionist/sort-named-imports": ["error", { ...natural, groups: ["value-import", "type-import"] }],
  "perfectionist/sort-named-exports": ["error", { ...natural, groups: ["value-export", "type-export"] }],
  "no-duplicate-imports": "error",
};

export default tseslint.config(
  { ignores: ["dist/", "build/", "docs/api/", "node_modules/", "models/", "runs/", "test/fixtures/"] },
  {
    files: ["**/*.ts"],
    extends: [js.configs.recommended, ...tseslint.configs.recommendedTypeChecked],
    plugins: { perfectionist },
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: root } },
    rules: {
      ...sorting,
      "@typescript-eslint/switch-exhaustiveness-check": "error",
      // `import type { A }` for types alone (nothing is loaded), else `import { a, type A }`: one line a module.
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/no-import-type-side-effects": "error",
      "@typescript-eslint/no-non-null-assertion": "off",
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true, allowBoolean: true }],
      // node:test's describe and it return promises that the runner itself awaits.
      "@typescript-eslint/no-floating-promises": [
        "error",
        {
          allowForKnownSafeCalls: [
            { from: "package", name: ["describe", "it", "test", "suite"], package: "node:test" },
          ],
        },
      ],
      // Private at run time too. A constructor may be `private`: it has no # form.
      "no-restricted-syntax": [
        "error",
        {
          selector: "TSParameterProperty[accessibility]",
          message: "Declare a #private field and assign it in the constructor.",
        },
        {
          selector: ":matches(PropertyDefinition, MethodDefinition[kind!='constructor'])[accessibility='private']",
          message: "Name it #name instead of private name.",
        },
        {
          selector: "[accessibility='public']",
          message: "Leave out public: it is what a member is.",
        },
      ],
    },
  },
  {
    // Numbers, strings and booleans of a module are UPPER_CASE. Programs and tests hold their state in such variables.
    files: ["src/**/*.ts", "scripts/**/*.ts"],
    ignores: ["**/*.test.ts", "**/*.fixture.ts"],
    rules: {
      "@typescript-eslint/naming-convention": [
        "error",
        {
          selector: "variable",
          modifiers: ["const", "global"],
          types: ["boolean", "number", "string"],
          format: ["UPPER_CASE"],
        },
      ],
    },
  },
  {
    // A room is known by its index.ts. Tests may look inside; the command line loads only the files that a command needs,
    // and evaluation and comparison are built on the rooms of src/b2, whose index.ts is the public part alone.
    files: ["src/**/*.ts", "scripts/**/*.ts", "examples/**/*.ts", "bench/**/*.ts"],
    ignores: ["**/*.test.ts", "**/*.fixture.ts", "src/cli/**", "src/compare/**", "src/doctor/**", "src/eval/**"],
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: [
            {
              regex: `^(\\.\\./)+(src/)?(?!(${besideIndex.join("|").replaceAll(".", "\\.")})$)(${rooms.join("|")})/(?!index\\.js$)`,
              message: "Import from the folder's index.js.",
            },
          ],
        },
      ],
    },
  },
  {
    files: ["**/*.{js,mjs}"],
    extends: [js.configs.recommended],
    plugins: { perfectionist },
    languageOptions: {
      globals: {
        process: "readonly",
        console: "readonly",
        URL: "readonly",
        fetch: "readonly",
        setTimeout: "readonly",
        AbortSignal: "readonly",
      },
    },
    rules: sorting,
  },
  {
    // Runs in a browser.
    files: ["src/annotate/page/*.js"],
    languageOptions: {
      globals: { document: "readonly", HTMLButtonElement: "readonly", Image: "readonly", window: "readonly" },
    },
  },
);
