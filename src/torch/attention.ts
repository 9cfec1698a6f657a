/**
 * Scaled dot-product attention: libtorch's own operator where there is one (2.x), else explicit attention over blocks
 * of query rows, so that the scores never take more than a fixed memory. Both are differentiable.
 */
import * as aten from "./operators.js";
import { full } from "./creation.js";
import { hasOperator } from "./op.js";
import { tidy } from "./memory.js";
import type { Tensor } from "./tensor.js";

export interface AttentionOptions {
  /** Added to the scores, broadcast to [B, heads, queries, keys]; a bool mask keeps what is true. */
  mask?: Tensor;
  /** Query i sees keys 0..i only. */
  causal?: boolean;
  /** 1 / sqrt(D) when left out. */
  scale?: number;
}

/** Elements of the score matrix that the explicit way holds at a time: 64 MB of float32. */
const MAX_SCORES = 16 * 1024 * 1024;

let builtIn: boolean | undefined;

/** softmax(q k^T * scale + mask) v, for q [B, heads, N, D] and k, v [B, heads, M, D]. */
export function scaledDotProductAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, causal = false, scale }: AttentionOptions = {},
): Tensor {
  builtIn ??= hasOperator("aten::scaled_dot_product_attention");
  return builtIn
    ? aten.scaledDotProductAttention(q, k, v, mask, 0, causal, scale)
    : explicitAttention(q, k, v, { ...(mask && { mask }), causal, ...(scale !== undefined && { scale }) });
}

/** The explicit way, on any libtorch. `maxScores` bounds the elements of one block's score matrix. */
export function explicitAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, causal = false, scale = 1 / Math.sqrt(q.size(-1)) }: AttentionOptions = {},
  maxScores: number = MAX_SCORES,
): Tensor {
  return tidy(() => {
    const queries = q.size(-2);
    const keys = k.size(-2);
    const rowsAtOnce = Math.max(1, Math.floor((maxScores * queries) / Math.max(1, (q.numel / q.size(-1)) * keys)));
    const keysT = k.transpose(-2, -1); // [B, heads, D, M]
    const blocks: Tensor[] = [];
    for (let start = 0; start < queries; start += rowsAtOnce) {
      const rows = Math.min(rowsAtOnce, queries - start);
      const block = (): Tensor => {
        const queryRows = q.narrow(-2, start, rows).mul(scale); // the smaller side to scale
        let scores = queryRows.matmul(keysT); // [B, heads, rows, M]
        if (mask !== undefined) scores = addMask(scores, rowsOf(mask, start, rows));
        if (causal) scores = scores.add(causalMask(start, rows, keys, q));
        return aten.softmax(scores, -1).matmul(v); // [B, heads, rows, D]
      };
      // Recording for backward keeps the scores anyway; the handles of temporaries go either way.
      blocks.push(tidy(block));
    }
    if (blocks.length === 1) return blocks[0]!;
    return aten.cat(blocks, -2);
  });
}

/** The mask's rows for one block; a mask with one row serves all. */
function rowsOf(mask: Tensor, start: number, rows: number): Tensor {
  return mask.ndim >= 2 && mask.size(-2) > 1 ? mask.narrow(-2, start, rows) : mask;
}

function addMask(scores: Tensor, mask: Tensor): Tensor {
  return mask.dtype === "bool" ? aten.whereScalarOther(mask, scores, -Infinity) : scores.add(mask);
}

/** -Infinity above the diagonal, for rows start.. of a causal attention. */
function causalMask(start: number, rows: number, keys: number, like: Tensor): Tensor {
  const blocked = full([rows, keys], -Infinity, { dtype: like.dtype, device: like.device });
  return aten.triu(blocked, start + 1);
}
