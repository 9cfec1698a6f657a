#!/usr/bin/env node
// The engines of package.json. Older versions lack what the imports need, so this is asked before them.
const [major, minor] = process.versions.node.split(".").map(Number);
if (major > 20 || (major === 20 && minor >= 19)) {
  const { main } = await import("../dist/src/cli/main.js");
  await main(process.argv);
  // What a module of one's own has left open, such as a timer, does not keep the process; what is written is.
  for (const stream of [process.stdout, process.stderr]) await new Promise((done) => stream.write("", done));
  process.exit();
} else {
  process.stderr.write(`b2: Expected Node 20.19 or newer but this is Node ${process.versions.node}\n`);
  process.exitCode = 2;
}
