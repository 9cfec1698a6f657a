/**
 * Writes a safetensors file from raw bytes, one tensor at a time and atomically. Needs no libtorch.
 */
import { writeSync } from "node:fs";
import { writeFileAtomic } from "../base/files.js";
import { SafetensorsError } from "./error.js";
import { byteLength, type SafetensorsDType } from "./header.js";

/** A tensor to write; `bytes` is called when it is written, so that only one is in memory. */
export interface RawTensor {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  readonly bytes: () => Uint8Array;
}

/**
 * Writes `tensors` to `file`: widest elements first, then by name, so that every tensor is aligned to its element size
 * and equal contents give equal files.
 *
 * @throws SafetensorsError when a tensor's bytes do not fill its shape
 */
export function writeRaw(
  file: string,
  tensors: ReadonlyMap<string, RawTensor>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const width = (t: RawTensor) => byteLength(t.dtype, []);
  const inOrder = [...tensors].sort(([a, x], [b, y]) => width(y) - width(x) || (a < b ? -1 : 1));

  const header: [string, unknown][] = Object.keys(metadata).length > 0 ? [["__metadata__", metadata]] : [];
  let offset = 0;
  for (const [key, { dtype, shape }] of inOrder) {
    const end = offset + byteLength(dtype, shape);
    header.push([key, { dtype, shape, data_offsets: [offset, end] }]);
    offset = end;
  }
  // Spaces up to a multiple of 8, so that the data starts aligned.
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const padded = Buffer.concat([json, Buffer.alloc(-json.length & 7, " ")]);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));

  writeFileAtomic(file, (fd) => {
    writeAll(fd, length);
    writeAll(fd, padded);
    for (const [key, { dtype, shape, bytes }] of inOrder) {
      const data = bytes();
      const expected = byteLength(dtype, shape);
      if (data.byteLength !== expected) {
        throw new SafetensorsError(file, `Expected ${expected} bytes but received ${data.byteLength}`, key);
      }
      writeAll(fd, data);
    }
  });
}

function writeAll(fd: number, data: Uint8Array): void {
  for (let done = 0; done < data.byteLength;) done += writeSync(fd, data, done);
}
