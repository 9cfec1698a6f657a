export { hubCache, hubToken } from "./environment.js";
export { HubError } from "./error.js";
export type { DownloadPurpose, RepositoryLayout } from "./files.js";
export { cachedModel, downloadModel, parseHubName, type DownloadModelOptions, type HubName } from "./hub.js";
export { fetchModel, findModel, resolveModel, type HubForm } from "./model-store.js";
