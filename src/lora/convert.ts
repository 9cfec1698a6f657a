/** A LoRA file of one form as one of another, from its own keys, without the model. */
import { tidy } from "../torch/index.js";
import { readLora, writeLora, type WriteLoraOptions } from "./lora-file.js";

/**
 * Whether the layers are SDXL's, whose names differ in kohya's form, is told from their paths.
 *
 * @throws SafetensorsError naming the file and the key at fault
 */
export function convertLora(from: string, to: string, options: WriteLoraOptions): void {
  tidy(() => {
    const { layers } = readLora(from);
    writeLora(to, layers, options);
  });
}
