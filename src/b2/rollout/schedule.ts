/** Backward progressive training (BPT, section 4.1 of the paper): which interval of a trajectory a stage trains. */

/**
 * Steps at the end of a trajectory that stage `stage` branches and trains:
 * s_i = first + floor(i (last - first + 1) / S). Late steps come first; the interval grows toward x_T.
 *
 * @param stage i, counted from 0; from stage S on the interval stays `last`
 * @param schedule.stages S, over which the interval grows
 * @throws RangeError for a stage that is no whole number from 0
 */
export function trainedSteps(stage: number, schedule: { first: number; last: number; stages: number }): number {
  const { first, last, stages } = schedule;
  if (!Number.isInteger(stage) || stage < 0) throw new RangeError(`Expected a stage from 0 but received ${stage}`);
  if (stage >= stages) return last;
  return first + Math.floor((stage * (last - first + 1)) / stages);
}
