/** Why a server's answer does not serve, in the parts of a sentence: "Expected ... from URL but received ...". */
export class Failure extends Error {
  override readonly name = "Failure";

  constructor(
    /** What was expected: "an answer", "3 scores, one per image,". */
    readonly expected: string,
    /** What came instead. */
    readonly received: string,
    /** Whether asking again can help, and after how many seconds if the server says so. */
    readonly again: { readonly useful: boolean; readonly seconds?: number | undefined } = { useful: true },
    /** The status of the answer, if it is that what is wrong. */
    readonly status?: number,
  ) {
    super(`Expected ${expected} but received ${received}`);
  }
}
