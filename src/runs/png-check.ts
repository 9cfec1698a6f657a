/** Checks that a file is a whole PNG, by the checksums of its chunks (PNG specification, third edition, section 5). */
import { readFileSync } from "node:fs";
import { crc32 } from "node:zlib";
import { RunError } from "./reader.js";

const SIGNATURE = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
/** Length, type and checksum of a chunk. */
const FRAME = 12;

/** @throws RunError naming the file when it is cut off or damaged */
export function checkPng(file: string): void {
  const bytes = readFileSync(file);
  const fail = (received: string): never => {
    throw new RunError(`Expected a whole PNG image in ${file} but received ${received}`);
  };
  if (!bytes.subarray(0, 8).equals(SIGNATURE)) fail("something else");
  for (let at = 8; at + FRAME <= bytes.length;) {
    const length = bytes.readUInt32BE(at);
    const end = at + FRAME + length;
    if (end > bytes.length) break;
    if (crc32(bytes.subarray(at + 4, end - 4)) !== bytes.readUInt32BE(end - 4)) fail("a damaged one");
    if (bytes.toString("latin1", at + 4, at + 8) === "IEND") return;
    at = end;
  }
  fail("one that is cut off");
}
