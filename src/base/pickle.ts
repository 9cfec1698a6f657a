/** Weights pickled by Python, recognised by their file names. */

export const isPickle = (path: string): boolean => /\.(bin|ckpt|pt|pth)$/.test(path);

/** Says why a pickle is refused, and how to convert it. */
export function pickleRefused(file: string): string {
  return (
    `Expected safetensors weights but received ${file}, a pickle, which can run any code when it is loaded. ` +
    "If you trust its origin, convert it once with Python's diffusers: " +
    'python -c "from diffusers import DiffusionPipeline as P; ' +
    "P.from_pretrained('<folder or name>', use_safetensors=False).save_pretrained('<new folder>')\" " +
    "(for one .ckpt file: StableDiffusionPipeline.from_single_file; for a LoRA: " +
    "safetensors.torch.save_file(torch.load(file, weights_only=True), new_file))"
  );
}
