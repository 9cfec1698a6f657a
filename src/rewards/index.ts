export {
  bertScoreOf,
  idfWeights,
  plainWeights,
  type BertScore,
  type MatchedTexts,
  type MatchedTokens,
  type TokenWeights,
} from "./bert-score-of.js";
export { bertScore, type BertScoreOptions } from "./bert-score.js";
export type { Captioner } from "./captioner.js";
export { Clip } from "./clip.js";
export { clipScore } from "./clip-score.js";
export { placementOf, placementOptions, USUAL_PLACEMENT } from "./placement.js";
export { RewardError } from "./error.js";
export type { ModuleReward, OpenReward } from "./module.js";
export { registerReward } from "./registry.js";
export { RewardResources } from "./resources.js";
export {
  checkRewards,
  rewards,
  type ImageKey,
  type NeededModel,
  type Place,
  type Placement,
  type PromptMetadata,
  type Reward,
  type RewardContext,
  type RewardFunction,
  type RewardKind,
  type ScoringCall,
  type SharedModel,
} from "./reward.js";
export type { RewardAnswers, SetAnswer, SetCall } from "./open-rewards.js";
export { labelOf, RewardSet, type Scores, type WeightedReward } from "./reward-set.js";
export { TokenMatcher, type TokenMatcherOptions } from "./token-matcher.js";
