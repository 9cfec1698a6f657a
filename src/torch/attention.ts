/**
 * Scaled dot-product attention: libtorch's own operator where there is one (2.x) that does not hold all scores at once,
 * else explicit attention over blocks of query rows, so that the scores never take more than a fixed memory. Both are
 * differentiable.
 */
import * as aten from "./operators.js";
import { checkpoint, relay } from "./checkpoint.js";
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

/**
 * Elements of the score matrix that the explicit way holds at a time: 8 MB of float32, which caches of today hold. Heads
 * with half a million scores or more go one by one: over 16 heads of 4,096 tokens that took 0.53 s, and blocks of 16
 * million scores of all heads together 1.45 s (libtorch 1.13.1, two cores).
 */
const MAX_SCORES = 2 ** 21;
const HEAD_ALONE = 2 ** 19;

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
 * The explicit way, on any libtorch, in blocks of at most `maxScores` elements of the score matrix. Where there are
 * several, backward runs each again, so that memory grows with the tokens and not with their square.
 */
export function explicitAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { mask, causal = false, scale = 1 / Math.sqrt(q.size(-1)) }: AttentionOptions = {},
  maxScores: number = MAX_SCORES,
): Tensor {
  return tidy(() => {
    const [queries, keys] = [q.size(-2), k.size(-2)];
    const headAlone = mask === undefined && q.ndim === 4 && queries * keys >= HEAD_ALONE;
    const heads = headAlone ? eachHead([q, k, v]) : [[q, k, v] as const];
    const rowScores = headAlone ? keys : (q.numel / q.size(-1) / queries) * keys; // scores of one query in all heads
    const rowsAtOnce = Math.min(queries, Math.max(1, Math.floor(maxScores / rowScores)));
    const isOne = heads.length === 1 && rowsAtOnce === queries;
    const again = !isOne && [q, k, v].some((x) => x.requiresGrad);
    const outputs = heads.map(([q, k, v]) => {
      const shared: [Tensor, Tensor] = again ? [relay(k), relay(v)] : [k, v];
      const blocks: Tensor[] = [];
      for (let start = 0; start < queries; start += rowsAtOnce) {
        const rows = Math.min(rowsAtOnce, queries - start);
        const block = (q: Tensor, k: Tensor, v: Tensor): Tensor => {
          let scores = q.mul(scale).matmul(k.transpose(-2, -1)); // [..., rows, keys]
          if (mask !== undefined) scores = addMask(scores, rowsOf(mask, start, rows));
          if (causal) scores = scores.add(causalMask(start, rows, keys, q));
          return aten.softmax(scores, -1).matmul(v); // [..., rows, D]
        };
        const inputs = [rows === queries ? q : q.narrow(-2, start, rows), ...shared] as const;
        // Recording for backward keeps the scores of a single block; the handles of temporaries go either way.
        blocks.push(again ? checkpoint((...x) => block(...(x as Three)), inputs) : tidy(() => block(...inputs)));
      }
      return blocks.length === 1 ? blocks[0]! : aten.cat(blocks, -2);
    });
    return outputs.length === 1 ? outputs[0]! : aten.cat(outputs, 0).view([...q.shape.slice(0, -1), v.size(-1)]);
  });
}

type Three = [q: Tensor, k: Tensor, v: Tensor];

/** [B, heads, N, D] of three tensors to [N, D] of each head. */
function eachHead(tensors: readonly [Tensor, Tensor, Tensor]): Three[] {
  const [batch, heads] = tensors[0].shape as [number, number];
  return Array.from({ length: batch * heads }, (_, i) => {
    return tensors.map((x) => x.select(0, Math.floor(i / heads)).select(0, i % heads)) as Three;
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
