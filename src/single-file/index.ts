export type { Family } from "./family.js";
export { diffusersModule, unetModule, type UNetNumbering } from "./names.js";
export { saveSingleFile, SingleFile, type SingleFileParts } from "./single-file.js";
