/** Converts a LoRA file between PEFT's and kohya's form by its keys, without the model. */
import { tidy } from "../torch/index.js";
import { readLora, writeLora, type WriteLoraOptions } from "./lora-file.js";

/**
 * Whether the layers are SDXL's, whose names differ in kohya's form, their paths tell.
 *
 * @throws InputError naming the file and the key at fault
 */
export function convertLora(from: string, to: string, options: WriteLoraOptions): void {
  tidy(() => {
    const { file, layers } = readLora(from);
    writeLora(to, layers, { source: file, ...options });
  });
}
