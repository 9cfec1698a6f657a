/**
 * Reads tensors of a file that is cut off while they are used. A process of its own, because a mapping of such a file
 * would end it with SIGBUS.
 *
 *     node shrinking.fixture.js <file>
 *
 * Prints the sum of the tensor that was read before the cut, and the error of the one that is read after it.
 */
import { truncateSync } from "node:fs";
import { SafetensorsFile } from "./index.js";

const source = new SafetensorsFile(process.argv[2]!);
const [before, after] = source.keys();
const read = source.tensor(before!);
truncateSync(source.file, 100);
const sum = read.sum().item();
let message = "none";
try {
  source.tensor(after!);
} catch (error) {
  message = (error as Error).message;
}
console.log(JSON.stringify({ sum, message }));
