/** What is wrong with a machine, and what its GPU computes beside the CPU: `b2 doctor`. */
export { examine, isUsable } from "./checks.js";
export { gigabytes, printableIn, type Finding, type State } from "./finding.js";
export { peakMemory, resetPeakMemory } from "./peak-memory.js";
export { randomStableDiffusion14, stableDiffusion14 } from "./stable-diffusion-14.js";
export { smoke, smokeSizes, type SmokeModel, type SmokeReport, type SmokeSize } from "./smoke.js";
