/** Converts a LoRA file between PEFT's and kohya's format by its keys, without the model. */
import { tidy } from "../torch/index.js";
import { readLora, writeLora, type WriteLoraOptions } from "./lora-file.js";

/**
 * Converts a LoRA file. Kohya's names differ between families, which are recognised by the layers' paths.
 *
 * @throws InputError naming the file and the key at fault
 */
export function convertLora(from: string, to: string, options: WriteLoraOptions): void {
  tidy(() => {
    const { file, layers } = readLora(from);
    writeLora(to, layers, { source: file, ...options });
  });
}
