/** The version of this package. */
import { join } from "node:path";
import { readJsonObject } from "../base/files.js";
import { packageRoot } from "../base/package-root.js";

export const version = (): string => String(readJsonObject(join(packageRoot(), "package.json"))["version"]);
