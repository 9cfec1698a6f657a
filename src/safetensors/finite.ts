/** Looks for NaN and infinity in a safetensors file, in pieces and without libtorch. */
import { closeSync, openSync, readSync } from "node:fs";
import { SafetensorsError } from "./error.js";
import { readHeader, type SafetensorsDType } from "./header.js";

/** Bytes that are read at once; a multiple of every element's size. */
const PIECE = 1 << 22;

/**
 * Whether the elements of a piece are all finite: the bits of their exponents are not all 1 (IEEE 754). 8-bit floating
 * point is not looked at.
 */
const CHECKS: Readonly<Partial<Record<SafetensorsDType, (bytes: Buffer) => boolean>>> = {
  F64: (bytes) => noneHas(0x7ff00000, new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4), 1, 2),
  F32: (bytes) => noneHas(0x7f800000, new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4)),
  BF16: (bytes) => noneHas(0x7f80, new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)),
  F16: (bytes) => noneHas(0x7c00, new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2)),
};

function noneHas(exponent: number, words: Uint32Array | Uint16Array, first = 0, step = 1): boolean {
  for (let i = first; i < words.length; i += step) if ((words[i]! & exponent) === exponent) return false;
  return true;
}

/**
 * Checks a whole file: its header, and that every number of floating point is finite.
 *
 * @throws SafetensorsError naming the file, and the first tensor at fault
 */
export function checkFinite(file: string): void {
  const { tensors } = readHeader(file);
  const fd = openSync(file, "r");
  try {
    const buffer = Buffer.from(new ArrayBuffer(PIECE));
    for (const [key, { dtype, begin, end }] of tensors) {
      const isFine = CHECKS[dtype];
      if (isFine === undefined) continue;
      for (let at = begin; at < end; at += PIECE) {
        const piece = buffer.subarray(0, Math.min(PIECE, end - at));
        readFully(file, fd, piece, at);
        if (isFine(piece)) continue;
        throw new SafetensorsError(file, "Expected finite numbers but received NaN or infinity", key);
      }
    }
  } finally {
    closeSync(fd);
  }
}

function readFully(file: string, fd: number, into: Buffer, position: number): void {
  for (let done = 0; done < into.length;) {
    const read = readSync(fd, into, done, into.length - done, position + done);
    if (read === 0)
      throw new SafetensorsError(file, `Expected ${into.length} bytes at ${position} but received ${done}`);
    done += read;
  }
}
