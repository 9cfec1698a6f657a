/**
 * Counter-based random numbers: each is a pure function of its address, so a sample's noise depends on (seed, stage,
 * root, branch, step) alone, never on what was drawn before it, in which batch, or by how many workers.
 *
 * Philox4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011). The seed and the stream
 * are its key, the address its counter.
 */

/** What a stream of numbers is for; different streams are independent. */
export const streams = {
  trajectory: 1,
  prompt: 2,
  shuffle: 3,
  timesteps: 4,
  evaluation: 5,
  "train-noise": 7,
  probe: 11,
} as const;

export type RandomStream = keyof typeof streams;

/** Determines a random number. Fields that a stream does not use are 0. */
export interface RandomAddress {
  readonly seed: number;
  readonly stream: RandomStream;
  readonly stage: number;
  readonly root: number;
  /** 0 is the root's own trajectory, k + 1 that of branch k; below 65,536. */
  readonly branch: number;
  /** 0 is the initial latent, t + 1 the noise of transition t; below 65,536. */
  readonly step: number;
}

/** A uniform number in [0, 1) with 32 bits. */
export function uniform(address: RandomAddress): number {
  const block = new Uint32Array(4);
  philox(block, 0, address);
  return block[0]! / 2 ** 32;
}

/**
 * Standard normal numbers (Box-Muller).
 *
 * @param out filled from `offset` on with `length` numbers; the first n do not depend on `length`
 */
export function fillNormal(out: Float32Array, offset: number, length: number, address: RandomAddress): void {
  const block = new Uint32Array(4);
  for (let i = 0; i < length; i += 4) {
    philox(block, i / 4, address);
    for (let j = 0; j < 4 && i + j < length; j += 2) {
      const radius = Math.sqrt(-2 * Math.log((block[j]! + 1) / 2 ** 32)); // (0, 1]: the logarithm is finite
      const angle = (2 * Math.PI * block[j + 1]!) / 2 ** 32;
      out[offset + i + j] = radius * Math.cos(angle);
      if (i + j + 1 < length) out[offset + i + j + 1] = radius * Math.sin(angle);
    }
  }
}

/** The numbers 0..n-1 in random order (Fisher-Yates). */
export function permutation(n: number, address: RandomAddress): Uint32Array {
  const order = Uint32Array.from({ length: n }, (_, i) => i);
  const block = new Uint32Array(4);
  for (let i = n - 1; i > 0; i--) {
    philox(block, i, address);
    const j = Math.floor((block[0]! / 2 ** 32) * (i + 1));
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

/** Ten rounds of Philox on counter (block, root, stage, branch|step) under key (seed, stream). */
function philox(out: Uint32Array, block: number, { seed, stream, stage, root, branch, step }: RandomAddress): void {
  philox4x32(out, block, root, stage, ((branch << 16) | step) >>> 0, seed, streams[stream]);
}

/** Philox4x32-10 itself: counter words c0..c3, key words k0 and k1, into the four words of `out`. */
export function philox4x32(
  out: Uint32Array,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  k0: number,
  k1: number,
): void {
  for (let round = 0; round < 10; round++) {
    const high0 = multiplyHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0);
    const high1 = multiplyHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2);
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1 >>> 0;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0 >>> 0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** The upper 32 bits of a 32 x 32 bit product. */
function multiplyHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16); // below 2^32, as is the next
  const cross = aLow * bHigh + (middle & 0xffff);
  return aHigh * bHigh + (middle >>> 16) + (cross >>> 16);
}
