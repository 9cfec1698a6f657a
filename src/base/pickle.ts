/** Weights that Python pickled, by the endings that such files have. */

export const isPickle = (path: string): boolean => /\.(bin|ckpt|pt|pth)$/.test(path);

/** Why a pickle is not read, and the way out. */
export function pickleRefused(file: string): string {
  return (
    `Expected safetensors weights but received ${file}, a pickle, which can run any code when it is loaded. ` +
    "Convert it once with Python's diffusers, where you trust its origin: " +
    'python -c "from diffusers import DiffusionPipeline as P; ' +
    "P.from_pretrained('<folder or name>', use_safetensors=False).save_pretrained('<new folder>')\" " +
    "(for one .ckpt file: StableDiffusionPipeline.from_single_file; for a LoRA: " +
    "safetensors.torch.save_file(torch.load(file, weights_only=True), new_file))"
  );
}
