/**
 * Finds dead links: every relative link and image of the given Markdown and HTML files must lead to a file, and its
 * anchor to a heading or an id there. `npm run links` checks the repository's pages and, if it was generated, the API
 * reference; `node scripts/check-links.mjs <file or folder> ...` checks others. Web links are not followed.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, extname, join, relative, resolve } from "node:path";

/** The pages checked by default. */
const PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "bench", "docs", "models", "test"];

/** @param {string} path of a file or a folder */
function pagesIn(path) {
  const isPage = (/** @type {string} */ file) => [".md", ".html"].includes(extname(file));
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path, { recursive: true, encoding: "utf8" })
    .map((name) => join(path, name))
    .filter(isPage)
    .sort();
}

/** Removes blocks and spans of code from Markdown. */
function withoutCode(/** @type {string} */ markdown) {
  return markdown
    .replace(/^( *)(```+|~~~+).*\n[^]*?^\1\2 *$/gm, "")
    .replace(/(`+)[^`][^]*?\1/g, (span) => (span.includes("\n\n") ? span : ""));
}

/** The targets of a page's links and images, as written. */
function linksOf(/** @type {string} */ file) {
  const text = readFileSync(file, "utf8");
  const html = [...text.matchAll(/<(?:a|img|link|script)\b[^>]*?\s(?:href|src)="([^"]*)"/g)];
  if (file.endsWith(".html")) return html.map(([, target = ""]) => target.replaceAll("&amp;", "&"));
  const inline = withoutCode(text).matchAll(/\]\(\s*<?([^\s)>]+)>?(?:\s+"[^"]*")?\s*\)/g);
  const references = withoutCode(text).matchAll(/^ {0,3}\[[^\]]+\]:\s+<?([^\s>]+)/gm);
  return [...html, ...inline, ...references].map(([, target = ""]) => target);
}

/** The anchors that a page has: GitHub's names of the headings, and ids. */
function anchorsOf(/** @type {string} */ file) {
  const text = readFileSync(file, "utf8");
  const ids = [...text.matchAll(/\s(?:id|name)="([^"]+)"/g)].map(([, id = ""]) => id);
  if (file.endsWith(".html")) return new Set(ids);
  /** @type {Map<string, number>} */
  const seen = new Map();
  // GitHub drops the backticks of code in a heading, but keeps its text.
  const headings = text.replace(/^( *)(```+|~~~+).*\n[^]*?^\1\2 *$/gm, "").matchAll(/^#{1,6}\s+(.*?)\s*#*$/gm);
  for (const [, heading = ""] of headings) {
    const shown = heading.replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1");
    const name = shown
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{M}_\- ]/gu, "")
      .replaceAll(" ", "-");
    const times = seen.get(name) ?? 0;
    seen.set(name, times + 1);
    ids.push(times === 0 ? name : `${name}-${times}`);
  }
  return new Set(ids);
}

/** The problem with a link of a page; undefined if its target exists. */
function fault(/** @type {string} */ page, /** @type {string} */ link) {
  if (/^[a-z][a-z0-9+.-]*:|^\/\//i.test(link)) return undefined;
  const [path = "", anchor] = link.split("#");
  const target = path === "" ? page : resolve(dirname(page), decodeURIComponent(path.replace(/\?.*$/, "")));
  if (!existsSync(target)) return "there is no such file";
  if (anchor === undefined || anchor === "" || ![".md", ".html"].includes(extname(target))) return undefined;
  return anchorsOf(target).has(decodeURIComponent(anchor)) ? undefined : `there is no #${anchor}`;
}

const named = process.argv.slice(2);
const pages = (named.length > 0 ? named : PAGES.filter((path) => existsSync(path))).flatMap(pagesIn);
let links = 0;
let dead = 0;
for (const page of pages) {
  for (const link of linksOf(page)) {
    links++;
    const problem = fault(page, link);
    if (problem === undefined) continue;
    dead++;
    console.error(`${relative(".", page)}: ${link}: ${problem}`);
  }
}
console.log(`${links} links of ${pages.length} pages, ${dead} of them dead`);
if (dead > 0) process.exitCode = 1;
