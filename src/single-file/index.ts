export type { Family } from "./family.js";
export {
  loadOpenClip,
  openClipPrefix,
  readOpenClipConfig,
  type OpenClipConfig,
  type OpenClipPreprocessing,
} from "./open-clip.js";
export { diffusersModule, unetModule, type UNetNumbering } from "./names.js";
export {
  isSD3SingleFile,
  saveSD3SingleFile,
  SD3SingleFile,
  type SD3PartName,
  type SD3SingleFileParts,
} from "./sd3-file.js";
export { sd3Module, sd3Paths } from "./sd3-names.js";
export { saveSingleFile, SingleFile, type SingleFileParts } from "./single-file.js";
