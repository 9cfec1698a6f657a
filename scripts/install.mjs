/**
 * Sets up libtorch and the native addon (libtorch/setup.mjs), as `b2 setup` does, without anything compiled.
 *
 *   --optional   the install script of the package: a failure is reported, but does not fail the install
 *   --debug      builds the addon for a debugger, beside the usual build; B2_ADDON=debug in the environment runs it
 */
import { setUp } from "./libtorch/setup.mjs";

const say = (/** @type {string} */ line) => console.log(`[libtorch] ${line}`);
const isOptional = process.argv.includes("--optional");
const start = Date.now();
try {
  const { built } = await setUp({ kind: process.argv.includes("--debug") ? "debug" : "release" });
  say(
    built
      ? `Built the native addon in ${Math.round((Date.now() - start) / 1000)} s.`
      : "The native addon is up to date.",
  );
} catch (error) {
  const isExpected = error instanceof Error && error.name === "InstallError";
  console.error(isExpected || isOptional ? /** @type {Error} */ (error).message : error);
  if (isOptional) say("The package is installed, but without its native addon. Once this is mended, run: npx b2 setup");
  else process.exitCode = 1;
}
