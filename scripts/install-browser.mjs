/** Installs Debian's Chromium for the tests of pages, unless a browser is there already: `.ci/run` does it as root. */
import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { aptInstall, canInstall } from "./libtorch/apt.mjs";

/** Names that test/support/browser.ts looks for too. */
const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome-headless-shell"];

const folders = (process.env.PATH ?? "").split(delimiter);
const found =
  process.env.CHROME_PATH || names.flatMap((name) => folders.map((folder) => join(folder, name))).find(existsSync);
if (found) console.log(`The tests of pages run in ${found}.`);
else if (!canInstall() || !aptInstall(["chromium"], console.log)) {
  console.log("There is no browser here, and none could be installed: the tests of pages will fail.");
}
