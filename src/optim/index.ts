export { AdamW8bit, momentBytes, stepBytes } from "./adamw-8bit.js";
export { AdamW, type AdamWOptions } from "./adamw.js";
export { GradScaler, type GradScalerOptions } from "./grad-scaler.js";
export { clipGradNorm } from "./clip-grad-norm.js";
