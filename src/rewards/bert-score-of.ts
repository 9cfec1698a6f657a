/**
 * BERTScore (Zhang et al. 2020, arXiv 1904.09675) of texts whose tokens are matched already: precision is the mean over
 * the candidate's tokens of the cosine with the most similar token of the reference, recall the same from the reference's
 * side, and both weigh tokens (the paper's equations 1 and 2). Without idf every token weighs 1, and the special ones
 * around a text 0; they can be matched all the same. The numbers are those of the bert-score package.
 *
 * Departures from the package: no padding takes part in a match. A text of which no token has a weight has a mean of 0,
 * not NaN.
 */

/** The tokens of one text, matched with those of the other. */
export interface MatchedTokens {
  readonly ids: readonly number[];
  /** For each, the cosine with the most similar token of the other text. */
  readonly best: readonly number[];
  /** Whether there is nothing but special tokens. */
  readonly isEmpty: boolean;
}

/** Two texts with their tokens matched. */
export interface MatchedTexts {
  readonly candidate: MatchedTokens;
  readonly reference: MatchedTokens;
}

export interface BertScore {
  readonly precision: number;
  readonly recall: number;
  /** The harmonic mean. */
  readonly f1: number;
}

/** The weight of a token, by its id. */
export type TokenWeights = (id: number) => number;

/** 1, and 0 for special tokens. */
export function plainWeights(specialIds: readonly number[]): TokenWeights {
  const special = new Set(specialIds);
  return (id) => (special.has(id) ? 0 : 1);
}

/**
 * Inverse document frequencies, log((M + 1) / (m + 1)) of a token that m of M references have (the paper's section 3,
 * smoothed as in the package). Special tokens are in all of them, and weigh 0.
 *
 * @param references the ids of each, special ones included
 */
export function idfWeights(references: readonly (readonly number[])[]): TokenWeights {
  const counts = new Map<number, number>();
  for (const ids of references) {
    for (const id of new Set(ids)) counts.set(id, (counts.get(id) ?? 0) + 1);
  }
  return (id) => Math.log((references.length + 1) / ((counts.get(id) ?? 0) + 1));
}

/** The scores of a pair; 0 if one of the texts is empty. */
export function bertScoreOf({ candidate, reference }: MatchedTexts, weights: TokenWeights): BertScore {
  if (candidate.isEmpty || reference.isEmpty) return { precision: 0, recall: 0, f1: 0 };
  const [precision, recall] = [weightedMean(candidate, weights), weightedMean(reference, weights)];
  const sum = precision + recall;
  return { precision, recall, f1: sum === 0 ? 0 : (2 * precision * recall) / sum };
}

function weightedMean({ ids, best }: MatchedTokens, weights: TokenWeights): number {
  let [sum, total] = [0, 0];
  ids.forEach((id, i) => {
    sum += weights(id) * best[i]!;
    total += weights(id);
  });
  return total === 0 ? 0 : sum / total;
}
