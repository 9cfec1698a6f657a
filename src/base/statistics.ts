/** Mean and sample standard deviation (n - 1); the deviation of a single value is 0; both are NaN for no values. */
export function meanAndDeviation(values: readonly number[]): { mean: number; deviation: number } {
  const n = values.length;
  if (n === 0) return { mean: NaN, deviation: NaN };
  const mean = values.reduce((sum, x) => sum + x, 0) / n;
  if (n === 1) return { mean, deviation: 0 };
  return { mean, deviation: Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / (n - 1)) };
}
