/** Several processes that train one model together, over libtorch's c10d (docs/distributed.md). */
export { launchFrom, placeOf, type Environment, type LaunchRequest, type Place } from "./environment.js";
export { WorkerError } from "./error.js";
export { writeErrorFile } from "./error-file.js";
export { groupOfEnvironment, openGroup, SoloGroup, type Group, type Patience } from "./group.js";
export { launch, type Launch } from "./launch.js";
export { receiveAnswer, receiveRequest, sendAnswer, sendRequest, type Request } from "./messages.js";
export { assignRoles, type RewardRanks, type Roles } from "./roles.js";
export { batchShareOf, shareOf, type Share } from "./shares.js";
export { alone, exchangeRows, gatherRows, type WithWorkers } from "./workers.js";
