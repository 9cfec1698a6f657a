/** `b2 new`: files of one's own to start from. */
import { existsSync, readFileSync } from "node:fs";
import { basename, extname, isAbsolute, join } from "node:path";
import type { Command } from "commander";
import { InputError } from "../../base/errors.js";
import { writeFileAtomic } from "../../base/files.js";
import { packageRoot } from "../../base/package-root.js";
import { example } from "../help.js";
import { printOut } from "../terminal.js";

/** The template as TypeScript and as JavaScript, in this package. */
const TEMPLATES = { ".ts": "src/rewards/template.ts", ".js": "dist/src/rewards/template.js" } as const;

type Ending = keyof typeof TEMPLATES;

export function addNewCommands(program: Command): void {
  const fresh = program
    .command("new")
    .description("Write a file to start from.")
    .addHelpText("after", example("b2 new reward my-reward"));

  fresh
    .command("reward <name>")
    .description("Write a reward of your own: NAME.ts where this Node runs TypeScript, else NAME.js.")
    .addHelpText("after", example("b2 new reward my-reward", "b2 new reward rewards/redness.js"))
    .action((name: string) => {
      const file = fileOf(name);
      if (existsSync(file)) throw new InputError(`Expected a new file but received ${file}, which exists`);
      const path = isAbsolute(file) || file.startsWith(".") ? file : `./${file}`;
      writeFileAtomic(file, templateFor(path));
      printOut(`${file} is a reward that works; change it, and try it:\n  b2 score IMAGES --rewards ${path}\n`);
    });
}

/** The path of the new file. @throws InputError for a name that is no file of JavaScript or TypeScript */
function fileOf(name: string): string {
  const given = extname(name);
  const file = given === "" ? `${name}${runsTypeScript() ? ".ts" : ".js"}` : name;
  if (Object.hasOwn(TEMPLATES, extname(file)) && /^[\p{L}\p{N}][\p{L}\p{N}_.-]*$/u.test(basename(file))) return file;
  throw new InputError(`Expected a name such as my-reward, my-reward.ts or my-reward.js but received "${name}"`);
}

/** Whether this Node strips types by itself. */
const runsTypeScript = (): boolean => Boolean((process.features as { typescript?: unknown }).typescript);

/** The template with the file's own path in its comments. */
function templateFor(path: string): string {
  const template = readFileSync(join(packageRoot(), TEMPLATES[extname(path) as Ending]), "utf8");
  return (extname(path) === ".js" ? asWritten(template) : template).replaceAll("FILE", path);
}

/** What the compiler wrote, indented by two spaces and without its last line. */
const asWritten = (compiled: string): string =>
  compiled
    .replace(/^\/\/# sourceMappingURL.*\n?/m, "")
    .replaceAll(/^( {4})+/gm, ({ length }) => " ".repeat(length / 2));
