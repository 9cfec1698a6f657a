export { hubCache, hubToken } from "./environment.js";
export { HubError } from "./error.js";
export type { Purpose } from "./files.js";
export { cachedModel, downloadModel, parseHubName, type DownloadModelOptions, type HubName } from "./hub.js";
