/**
 * Trajectories that are no numbers: a root with a NaN or an infinity in it is left out of its stage, whose other roots
 * train. Whole roots are, because selection compares the branches of a root with each other.
 *
 * A NaN stays in a trajectory to its end. So two sums over the final latents and the log-probs of a stage find out that
 * there is none; where there is one, the rows are looked at.
 */
import { InputError } from "../../base/errors.js";
import { show } from "../../base/show.js";
import { allFinite, tensor, tidy, type Tensor } from "../../torch/index.js";
import { disposeRecord, type BranchBatch } from "../records.js";

/** A root that was left out. */
export interface LeftOutRoot {
  readonly root: number;
  readonly prompt: string;
  /** The timestep that led to the first number that is none; null where that was before the split, or is not recorded. */
  readonly timestep: number | null;
}

/** Of a stage's roots: where more are no numbers, it is not a few prompts that are at fault but the model. */
const MOST_LEFT_OUT = 0.5;

/**
 * A stage without the roots that have a NaN or an infinity; the same record where there is none.
 *
 * @param batch disposed of where roots are left out, and where this throws
 * @throws InputError where more than half of the roots are left out
 */
export function withoutNotFinite(batch: BranchBatch): { batch: BranchBatch; leftOut: readonly LeftOutRoot[] } {
  const finals = tidy(() => batch.latents.select(1, -1));
  const isFinite = allFinite(finals) && (batch.logProbs === undefined || allFinite(batch.logProbs));
  finals.dispose();
  if (isFinite) return { batch, leftOut: [] };
  try {
    const leftOut = rootsLeftOut(batch);
    const roots = new Set(batch.keys.map(({ root }) => root)).size;
    if (leftOut.length > MOST_LEFT_OUT * roots) throw new InputError(tooMany(batch.stage, roots, leftOut));
    return { batch: without(batch, new Set(leftOut.map(({ root }) => root))), leftOut };
  } finally {
    disposeRecord(batch);
  }
}

/** What is said of a root that was left out. */
export const leftOutInWords = ({ root, prompt, timestep }: LeftOutRoot): string =>
  `root ${root} (${show(prompt, 80)})${timestep === null ? "" : `, from timestep ${timestep} on`}`;

const tooMany = (stage: number, roots: number, leftOut: readonly LeftOutRoot[]): string =>
  `Expected latents of numbers for at least half of the ${roots} roots of stage ${stage} but received NaN or infinity for ${leftOut.length}, the first of them ${leftOutInWords(leftOut[0]!)}: the model's weights ran away (lower train.learningRate and begin a new run), sample.guidanceScale is too large, or model.computeDtype overflows (float32 does not)`;

function rootsLeftOut({ keys, timesteps, latents, logProbs }: BranchBatch): LeftOutRoot[] {
  const roots = new Map<number, LeftOutRoot>();
  keys.forEach(({ root, prompt }, row) => {
    const step = firstNotFinite(latents, logProbs, row);
    if (step === undefined) return;
    const timestep = logProbs === undefined || step < 0 ? null : timesteps[step]!;
    const known = roots.get(root);
    // The earliest of the root's branches: timesteps descend.
    if (known !== undefined && (known.timestep === null || known.timestep >= (timestep ?? Infinity))) return;
    roots.set(root, { root, prompt, timestep });
  });
  return [...roots.values()];
}

/**
 * The step of a row that led to its first number that is none: -1 for the state at the split, undefined if all are
 * numbers. Without transitions, of which only the last state is kept, the step is 0.
 */
function firstNotFinite(latents: Tensor, logProbs: Tensor | undefined, row: number): number | undefined {
  return tidy(() => {
    const states = latents.select(0, row);
    if (logProbs === undefined) return allFinite(states) ? undefined : 0;
    const ofSteps = logProbs.select(0, row).toArray();
    for (let state = 0; state < states.size(0); state++) {
      if (!allFinite(states.select(0, state))) return state - 1;
      if (state > 0 && !Number.isFinite(ofSteps[state - 1])) return state - 1;
    }
    return undefined;
  });
}

/** A copy without the rows of some roots. */
function without(batch: BranchBatch, roots: ReadonlySet<number>): BranchBatch {
  const rows = batch.keys.flatMap(({ root }, row) => (roots.has(root) ? [] : [row]));
  return tidy(() => {
    const index = tensor(BigInt64Array.from(rows, BigInt));
    return {
      ...batch,
      keys: rows.map((row) => batch.keys[row]!),
      latents: batch.latents.indexSelect(0, index),
      logProbs: batch.logProbs?.indexSelect(0, index),
    };
  });
}
