/**
 * Initialisation of parameters. The defaults of the layers are PyTorch's: kaiming_uniform with a = sqrt(5), which
 * is uniform in +-1/sqrt(fan in), for weights and biases of linear and convolutional layers.
 */
import { full, rand, randn, tidy, type Device, type DType, type Generator, type Tensor } from "../torch/index.js";

/** Initialises a parameter of a shape, drawing from the caller's generator. */
export type Init = (
  shape: readonly number[],
  options: { readonly generator: Generator; readonly dtype: DType; readonly device: Device },
) => Tensor;

/** Fills with one value. */
export function constant(value: number): Init {
  return (shape, { dtype, device }) => full(shape, value, { dtype, device });
}

/** Fills with zeros. */
export const zerosInit: Init = constant(0);
/** Fills with ones. */
export const onesInit: Init = constant(1);

/** Uniform in +-bound. */
export function uniform(bound: number): Init {
  return drawn((shape, options) =>
    rand(shape, options)
      .mul_(2 * bound)
      .sub_(bound),
  );
}

/** Normal with mean 0. */
export function normal(std: number): Init {
  return drawn((shape, options) => randn(shape, options).mul_(std));
}

/**
 * Draws float32 on the generator's device, so that one seed gives the same parameters on every device, and in every dtype
 * up to its rounding.
 */
function drawn(draw: (shape: readonly number[], options: Parameters<Init>[1]) => Tensor): Init {
  return (shape, { generator, dtype, device }) =>
    tidy(() => draw(shape, { generator, dtype: "float32", device: generator.device }).to({ dtype, device }));
}

/** PyTorch's default for a layer whose outputs each sum over `fanIn` inputs: uniform in +-1/sqrt(fanIn). */
export function fanInUniform(fanIn: number): Init {
  return uniform(fanIn > 0 ? 1 / Math.sqrt(fanIn) : 0);
}
