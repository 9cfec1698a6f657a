export { clipScore, type ClipScoreOptions } from "./clip-score.js";
export { loadReward, type RewardSpec } from "./load.js";
export { brightness, jpegCompressibility } from "./simple.js";
export { checkRewards, RewardError, type Reward } from "./reward.js";
