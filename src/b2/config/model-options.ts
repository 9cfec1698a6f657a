/** The options of a model's family, which are known once its files are there. */
import type { ModelFamily } from "../../pipeline/index.js";
import { explain } from "./explain.js";
import { ConfigError } from "./resolve.js";
import type { Config } from "./schema.js";

/** @throws ConfigError with a sentence for every impossible value of `model.options` */
export function checkModelOptions(family: ModelFamily, { model }: Pick<Config, "model">): void {
  const { error } = family.options.safeParse(model.options, { reportInput: true });
  if (error === undefined) return;
  throw new ConfigError(
    error.issues.flatMap((issue) => explain({ ...issue, path: ["model", "options", ...issue.path] })),
  );
}
