export type { Family } from "./family.js";
export {
  loadOpenClip,
  openClipPrefix,
  readOpenClipConfig,
  type OpenClipConfig,
  type OpenClipPreprocessing,
} from "./open-clip.js";
export { diffusersModule, unetModule, type UNetNumbering } from "./names.js";
export { saveSingleFile, SingleFile, type SingleFileParts } from "./single-file.js";
