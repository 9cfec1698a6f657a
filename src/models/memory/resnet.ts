/** ResnetBlock2D in a ledger, see resnet.ts of the models. */
import type { Layers } from "./layers.js";
import type { Sized } from "./ledger.js";

/** @param pixels over the batch */
export function resnet(layers: Layers, x: Sized, [inputs, outputs]: readonly [number, number], pixels: number): Sized {
  return layers.tidy(() => {
    const h = layers.tidy(() => layers.conv("conv1", layers.silu(layers.norm(x)), pixels, [inputs, outputs, 3]));
    const activated = layers.tidy(() => layers.silu(layers.norm(h)));
    layers.dispose(h);
    const out = layers.conv("conv2", activated, pixels, [outputs, outputs, 3]);
    layers.dispose(activated);
    if (inputs === outputs) return layers.add(out, x);
    return layers.add(out, layers.conv("conv_shortcut", x, pixels, [inputs, outputs, 1]));
  });
}
