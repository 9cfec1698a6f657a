/** Something the user gave that cannot work: the command line prints its message alone and exits with code 2. */
export class InputError extends Error {
  override readonly name: string = "InputError";
}
