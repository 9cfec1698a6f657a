/**
 * Scaled dot-product attention: libtorch's own operator where there is one (2.x) that does not hold all scores at once,
 * else explicit attention over blocks of query rows, so that the scores never take more than a fixed memory. Both are
 * differentiable.
 */
import { full } from "./creation.js";
import { expectSlot, tidy } from "./memory.js";
import { native, type Slot } from "./native.js";
import { hasOperator } from "./op.js";
import { aten, Tensor } from "./tensor.js";

export interface AttentionOptions {
  /** Added to the scores, broadcast to [B, heads, queries, keys]; a bool mask keeps what is true. */
  mask?: Tensor;
  /** Query i sees keys 0..i only. */
  causal?: boolean;
  /** 1 / sqrt(D) when left out. */
  scale?: number;
}

/** Elements of the score matrix that the explicit way holds at a time: 8 MB of float32, which caches of today hold. */
const MAX_SCORES = 2 ** 21;

let builtIn: boolean | undefined;

/** softmax(q k^T * scale + mask) v, for q [B, heads, N, D] and k, v [B, heads, M, D]. */
export function scaledDotProductAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, causal = false, scale }: AttentionOptions = {},
): Tensor {
  builtIn ??= hasOperator("aten::scaled_dot_product_attention");
  if (!builtIn || holdsScores(q, k)) {
    return explicitAttention(q, k, v, { ...(mask && { mask }), causal, ...(scale !== undefined && { scale }) });
  }
  // libtorch 2.0's has no argument for the scale.
  const scaled = scale === undefined ? q : q.mul(scale * Math.sqrt(q.size(-1)));
  return aten.scaledDotProductAttention(scaled, k, v, mask, 0, causal);
}

/** Metal's operator holds the scores of all heads, and beyond 4 GB of them ends the process. */
function holdsScores(q: Tensor, k: Tensor): boolean {
  return q.device.startsWith("mps") && (q.numel / q.size(-1)) * k.size(-2) > MAX_SCORES;
}

/**
 * The explicit way, on any libtorch. Where the score matrix has more than `maxScores` elements it is computed in blocks of
 * so many, and again in backward, so that memory grows with the tokens and not with their square
 * (native/attention.cc); a mask has no gradient then.
 */
export function explicitAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, causal = false, scale = 1 / Math.sqrt(q.size(-1)) }: AttentionOptions = {},
  maxScores: number = MAX_SCORES,
): Tensor {
  const [queries, keys] = [q.size(-2), k.size(-2)];
  if ((q.numel / q.size(-1)) * keys > maxScores) {
    const [slotQ, slotK, slotV] = [q, k, v].map((x) => expectSlot(x, "attention")) as [Slot, Slot, Slot];
    const slotMask = mask === undefined ? null : expectSlot(mask, "attention");
    return new Tensor(native.blockedAttention(slotQ, slotK, slotV, slotMask, causal, scale, maxScores));
  }
  return tidy(() => {
    let scores = q.mul(scale).matmul(k.transpose(-2, -1)); // [..., N, M]
    if (mask !== undefined) scores = addMask(scores, mask);
    if (causal) scores = scores.add(causalMask(queries, keys, q));
    return aten.softmax(scores, -1).matmul(v); // [..., N, D]
  });
}

function addMask(scores: Tensor, mask: Tensor): Tensor {
  return mask.dtype === "bool" ? aten.whereScalarOther(mask, scores, -Infinity) : scores.add(mask);
}

/** -Infinity above the diagonal. */
function causalMask(queries: number, keys: number, like: Tensor): Tensor {
  const blocked = full([queries, keys], -Infinity, { dtype: like.dtype, device: like.device });
  return aten.triu(blocked, 1);
}
