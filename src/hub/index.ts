export { hubCache, hubToken } from "./environment.js";
export { HubError } from "./error.js";
export type { DownloadPurpose, RepositoryLayout } from "./files.js";
export { cachedModel, downloadModel, parseHubName, type DownloadModelOptions, type HubName } from "./hub.js";
export { fetchModel, findModel, type HubForm, resolveModel } from "./model-store.js";
