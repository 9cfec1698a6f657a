/** Where things are: the repository, the fixtures, and folders that go with the process. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

export const repository = resolve(import.meta.dirname, "../../..");

export const fixtures = join(repository, "test/fixtures");

const temporary: string[] = [];
process.on("exit", () => {
  for (const folder of temporary) rmSync(folder, { recursive: true, force: true });
});

/** An empty folder of its own, removed when the process ends. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "b2-test-"));
  temporary.push(folder);
  return folder;
}
