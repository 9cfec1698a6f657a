/**
 * AdamW with moments of 8 bits each, which take 2.03 bytes a parameter instead of 8. Source: "8-bit Optimizers via
 * Block-wise Quantization" (Dettmers et al. 2022, arXiv 2110.02861); the departures are block-quantization.ts's. The
 * moments of a parameter are dequantised, updated with AdamW's own operations in float32, and quantised again, some
 * elements at a time, so that a step needs little memory of its own. Parameters of fewer than 4,096 elements keep their
 * moments in float32, as the authors' library does.
 */
import { tidy, zeros, type Device, type Tensor } from "../torch/index.js";
import { AdamW, type Due, type MomentTensors } from "./adamw.js";
import { BLOCK, BlockQuantizer, type Quantized } from "./block-quantization.js";

/** Elements from which the moments of a parameter are quantised. */
export const QUANTIZED_FROM = 4096;

/** Elements that are updated at a time, about. */
const AT_ONCE = 2 ** 20;

/** Of an element that is updated: its moments in float32, and temporaries. */
const BYTES_AT_ONCE = 34;

/** Bytes of both moments of a parameter. */
export function momentBytes(elements: number, { use8bitAdam }: { readonly use8bitAdam: boolean }): number {
  return use8bitAdam && elements >= QUANTIZED_FROM ? 2 * elements + 8 * Math.ceil(elements / BLOCK) : 8 * elements;
}

/** Bytes that a step needs besides parameters, gradients and moments, for parameters of these sizes. */
export function stepBytes(sizes: readonly number[], { use8bitAdam }: { readonly use8bitAdam: boolean }): number {
  const [quantized, others] = [true, false].map((isLarge) =>
    sizes.filter((size) => isLarge === (use8bitAdam && size >= QUANTIZED_FROM)),
  ) as [number[], number[]];
  const denominators = 4 * others.reduce((sum, size) => sum + size, 0);
  return Math.max(denominators, BYTES_AT_ONCE * Math.min(AT_ONCE, Math.max(0, ...quantized)));
}

interface Quantizers {
  readonly signed: BlockQuantizer;
  readonly unsigned: BlockQuantizer;
}

/** The optimiser; owns its moments. Its saved state has `<name>.exp_avg_absmax` and `.exp_avg_sq_absmax` besides. */
export class AdamW8bit extends AdamW {
  readonly #quantizers = new Map<Device, Quantizers>();

  override dispose(): void {
    super.dispose();
    for (const { signed, unsigned } of this.#quantizers.values()) {
      signed.dispose();
      unsigned.dispose();
    }
    this.#quantizers.clear();
  }

  /** Codes in the order of the parameter's elements, row by row, whatever its memory format. */
  protected override zeroMoments(parameter: Tensor): MomentTensors {
    const { numel, shape, device } = parameter;
    if (numel < QUANTIZED_FROM) return super.zeroMoments(parameter);
    const { signed, unsigned } = this.#quantizersOn(device);
    const absmax = (): Tensor => zeros([Math.ceil(numel / BLOCK)], { device });
    return {
      exp_avg: signed.zeroCodes(shape, device),
      exp_avg_sq: unsigned.zeroCodes(shape, device),
      exp_avg_absmax: absmax(),
      exp_avg_sq_absmax: absmax(),
    };
  }

  protected override update(step: number, due: readonly Due[]): void {
    const isQuantized = ({ moments }: Due): boolean => moments.exp_avg_absmax !== undefined;
    const others = due.filter((one) => !isQuantized(one));
    if (others.length > 0) super.update(step, others);
    for (const { parameter, grad, moments } of due.filter(isQuantized)) {
      const { signed, unsigned } = this.#quantizersOn(parameter.device);
      for (const rows of rowsAtOnce(parameter.shape)) {
        tidy(() => {
          const [avg, avgSq] = quantizedRows(moments, rows);
          const some = parameter.narrow(0, rows.start, rows.length);
          const [expAvg, expAvgSq] = [signed.dequantize(avg), unsigned.dequantize(avgSq)];
          const inShape = { exp_avg: expAvg.view(some.shape), exp_avg_sq: expAvgSq.view(some.shape) };
          super.update(step, [{ parameter: some, grad: grad.narrow(0, rows.start, rows.length), moments: inShape }]);
          signed.quantize(expAvg, avg);
          unsigned.quantize(expAvgSq, avgSq);
        });
      }
    }
  }

  #quantizersOn(device: Device): Quantizers {
    let quantizers = this.#quantizers.get(device);
    if (quantizers === undefined) {
      quantizers = { signed: new BlockQuantizer(true, device), unsigned: new BlockQuantizer(false, device) };
      this.#quantizers.set(device, quantizers);
    }
    return quantizers;
  }
}

/** Rows of a parameter's first dimension, and how many elements each has. */
interface Rows {
  readonly start: number;
  readonly length: number;
  readonly size: number;
}

/** About AT_ONCE elements at a time, in rows of the first dimension whose ends are ends of blocks. */
function rowsAtOnce([count, ...shape]: readonly number[]): Rows[] {
  const size = shape.reduce((product, side) => product * side, 1);
  let whole = 1; // rows that make whole blocks
  while ((whole * size) % BLOCK !== 0) whole *= 2;
  const most = whole * Math.max(1, Math.floor(AT_ONCE / (whole * size)));
  const starts = Array.from({ length: Math.ceil(count! / most) }, (_, i) => i * most);
  return starts.map((start) => ({ start, length: Math.min(most, count! - start), size }));
}

/** Views of both moments of some rows. */
function quantizedRows(moments: MomentTensors, { start, length, size }: Rows): [avg: Quantized, avgSq: Quantized] {
  const [block, blocks] = [(start * size) / BLOCK, Math.ceil((length * size) / BLOCK)];
  const part = (codes: Tensor, absmax: Tensor): Quantized => ({
    codes: codes.narrow(0, start, length).view([-1]),
    absmax: absmax.narrow(0, block, blocks),
  });
  return [part(moments.exp_avg, moments.exp_avg_absmax!), part(moments.exp_avg_sq, moments.exp_avg_sq_absmax!)];
}
