/**
 * The API reference: `npm run docs` writes docs/api, of what package.json exports and of the pages in docs/. A link to
 * something that does not exist is an error. `npm run docs:undocumented` lists the public names without a comment.
 */
import { readFileSync } from "node:fs";

/** @type {{ exports: Record<string, string | { types: string }> }} */
const { exports } = JSON.parse(readFileSync(new URL("package.json", import.meta.url), "utf8"));

/** @type {Partial<import("typedoc").TypeDocOptions>} */
export default {
  entryPoints: Object.values(exports)
    .filter((entry) => typeof entry !== "string")
    .map(({ types }) => types.replace(/^\.\/dist\/(.*)\.d\.ts$/, "$1.ts")),
  projectDocuments: ["docs/*.md", "{CHANGELOG,CONTRIBUTING}.md", "{bench,models,test,test/fixtures}/README.md"],
  out: "docs/api",
  // zod is passed on for plugins' schemas, and has pages of its own.
  excludeExternals: true,
  excludeInternal: true,
  excludePrivate: true,
  // A source link names the commit it was made from, which a reader at hand need not have.
  disableSources: true,
  validation: { invalidLink: true, invalidPath: true, notExported: false, notDocumented: false },
  treatValidationWarningsAsErrors: true,
  requiredToBeDocumented: ["Class", "Function", "Interface", "Method", "TypeAlias"],
};
