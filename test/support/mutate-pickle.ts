/** Damages Python's pickles: other opcodes in the place of theirs or besides them, and opcodes at random. */
import { mutateBytes, type Mutate, type Random } from "./mutate.js";

/** Those that plain data is written with, and some that name, make or call something. */
const OPCODES = [
  ...Buffer.from("(.GJKMNX]ahqrjstu})BC\x80\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x94\x95", "latin1"),
  ...Buffer.from("cR\x93\x81\x62", "latin1"),
];

const opcode = (random: Random): number => random.pick(OPCODES);

/** One to four changes, each of bytes or one more opcode. */
export const mutatePickle: Mutate = (sound, random) => {
  let bytes = sound;
  for (let changes = 1 + random.below(4); changes > 0; changes--) {
    const at = 2 + random.below(Math.max(1, bytes.length - 2));
    bytes = random.once(2)
      ? Buffer.concat([bytes.subarray(0, at), Uint8Array.of(opcode(random)), bytes.subarray(at)])
      : mutateBytes(bytes, random);
  }
  return bytes;
};

/** A pickle of random opcodes, mostly known ones. */
export function opcodeSoup(random: Random): Buffer {
  const length = 1 + random.below(40);
  const soup = Uint8Array.from({ length }, () => (random.once(8) ? random.below(256) : opcode(random)));
  return Buffer.concat([Buffer.from("\x80\x04", "latin1"), soup, Buffer.from(".")]);
}
