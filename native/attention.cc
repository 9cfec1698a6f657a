// Attention in blocks of query rows, for where libtorch has no operator of its own that bounds the memory: forward
// keeps no scores, and backward computes each block's again, so that memory grows with the tokens and not with their
// square.
//
// Backward is the softmax's as in FlashAttention (Dao et al. 2022, arXiv 2205.14135, appendix B): the sum that it takes
// over a row of scores is that over the row's output times its gradient.

#include "attention.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>
#include <optional>

#include "convert.h"
#include "error.h"

namespace {

// Heads with so many scores or more go one by one: over 16 heads of 4,096 tokens that took 0.53 s, and blocks of all
// heads together 1.45 s (libtorch 1.13.1, two cores of an Intel Xeon).
constexpr int64_t kHeadAlone = 1 << 19;

struct Settings {
  // Added to the scores, or false where they do not count; broadcast to [..., N, M]. It gets no gradient.
  std::optional<at::Tensor> mask;
  bool causal;
  double scale;
  // Elements of the score matrix at a time.
  int64_t maxScores;
};

// Some query rows of one head, or of all together.
struct Block {
  // -1 for all.
  int64_t head;
  int64_t start;
  int64_t rows;

  // The rows of the head in [..., N, D].
  at::Tensor queries(const at::Tensor& x) const { return keys(x).narrow(-2, start, rows); }
  // All of the head in [..., M, D].
  at::Tensor keys(const at::Tensor& x) const {
    return head < 0 ? x : x.select(0, head / x.size(1)).select(0, head % x.size(1));
  }
};

std::vector<Block> blocksOf(const at::Tensor& q, const at::Tensor& k, const Settings& settings) {
  const int64_t queries = q.size(-2);
  const int64_t keys = k.size(-2);
  const int64_t heads = q.numel() / (queries * q.size(-1));
  const bool alone = !settings.mask && q.dim() == 4 && queries * keys >= kHeadAlone;
  const int64_t scoresOfRow = alone ? keys : heads * keys;
  const int64_t rows = std::min(queries, std::max<int64_t>(1, settings.maxScores / scoresOfRow));
  std::vector<Block> blocks;
  for (int64_t head = alone ? 0 : -1; head < (alone ? heads : 0); head++) {
    for (int64_t start = 0; start < queries; start += rows) {
      blocks.push_back({head, start, std::min(rows, queries - start)});
    }
  }
  return blocks;
}

// Matrix products into memory that one block after the other uses: fresh pages for each took a third of the time.
class Scratch {
 public:
  const at::Tensor& product(const at::Tensor& a, const at::Tensor& b) {
    if (!tensor_.defined() || tensor_.size(-2) != a.size(-2)) {
      std::vector<int64_t> sizes = a.sizes().vec();
      sizes.back() = b.size(-1);
      tensor_ = at::empty(sizes, a.options());
    }
    return at::matmul_out(tensor_, a, b);
  }

  const at::Tensor& softmax(const at::Tensor& scores) {
    if (!tensor_.defined() || tensor_.sizes() != scores.sizes()) tensor_ = at::empty_like(scores);
    return at::_softmax_out(tensor_, scores, -1, /*half_to_float=*/false);
  }

 private:
  at::Tensor tensor_;
};

struct Scratches {
  Scratch scores, probabilities, gradients;
};

// softmax(q k^T scale + mask), [..., rows, M]
const at::Tensor& probabilities(const Block& block, const at::Tensor& q, const at::Tensor& k, const Settings& settings,
                                Scratches& scratches) {
  const at::Tensor& scores =
      scratches.scores.product(block.queries(q) * settings.scale, block.keys(k).transpose(-2, -1));
  constexpr double kNever = -std::numeric_limits<double>::infinity();
  if (settings.mask) {
    at::Tensor mask = *settings.mask;
    if (mask.dim() >= 2 && mask.size(-2) > 1) mask = mask.narrow(-2, block.start, block.rows);
    if (mask.scalar_type() == at::kBool) {
      scores.masked_fill_(mask.logical_not(), kNever);
    } else {
      scores.add_(mask);
    }
  }
  if (settings.causal) {
    const auto options = scores.options().dtype(at::kBool);
    scores.masked_fill_(at::ones({block.rows, k.size(-2)}, options).triu_(block.start + 1), kNever);
  }
  return scratches.probabilities.softmax(scores);
}

class BlockedAttention : public torch::autograd::Function<BlockedAttention> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const Settings& settings) {
    // [B, heads, N, D] with tokens before heads in memory, as the layer behind takes them.
    std::vector<int64_t> sizes = q.sizes().vec();
    sizes.back() = v.size(-1);
    at::Tensor output;
    if (q.dim() == 4) {
      std::swap(sizes[1], sizes[2]);
      output = at::empty(sizes, q.options()).transpose(1, 2);
    } else {
      output = at::empty(sizes, q.options());
    }
    Scratches scratches;
    for (const Block& block : blocksOf(q, k, settings)) {
      block.queries(output).copy_(at::matmul(probabilities(block, q, k, settings, scratches), block.keys(v)));
    }
    context->save_for_backward({q, k, v, output});
    context->saved_data["mask"] = settings.mask ? c10::IValue(*settings.mask) : c10::IValue();
    context->saved_data["causal"] = settings.causal;
    context->saved_data["scale"] = settings.scale;
    context->saved_data["maxScores"] = settings.maxScores;
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &output = saved[3];
    const at::Tensor& gradient = gradients[0];
    auto& data = context->saved_data;
    const std::optional<at::Tensor> mask =
        data["mask"].isTensor() ? std::optional<at::Tensor>(data["mask"].toTensor()) : std::nullopt;
    const Settings settings{mask, data["causal"].toBool(), data["scale"].toDouble(), data["maxScores"].toInt()};

    at::Tensor dq = at::empty_like(q), dk = at::zeros_like(k), dv = at::zeros_like(v);
    Scratches scratches;
    for (const Block& block : blocksOf(q, k, settings)) {
      const at::Tensor& p = probabilities(block, q, k, settings, scratches);
      const at::Tensor dOutput = block.queries(gradient);
      block.keys(dv).add_(at::matmul(p.transpose(-2, -1), dOutput));
      const at::Tensor sums = (dOutput * block.queries(output)).sum(-1, /*keepdim=*/true);
      const at::Tensor& dScores = scratches.gradients.product(dOutput, block.keys(v).transpose(-2, -1));
      dScores.sub_(sums).mul_(p);
      block.queries(dq).copy_(at::matmul(dScores, block.keys(k)).mul_(settings.scale));
      block.keys(dk).add_(at::matmul(dScores.transpose(-2, -1), block.queries(q)), settings.scale);
    }
    return {dq, dk, dv, at::Tensor()};
  }
};

// blockedAttention(q, k, v, mask, causal, scale, maxScores)
Napi::Value blockedAttention(Engine& engine, const Napi::CallbackInfo& info) {
  const char* what = "attention";
  Settings settings;
  if (!info[3].IsNull()) settings.mask = tensorAt(engine, info[3], what);
  settings.causal = info[4].ToBoolean();
  settings.scale = info[5].ToNumber().DoubleValue();
  settings.maxScores = integerOf(engine, info[6], "maxScores");
  const at::Tensor &q = tensorAt(engine, info[0], what), &k = tensorAt(engine, info[1], what),
                   &v = tensorAt(engine, info[2], what);
  const bool agree = q.dim() >= 2 && q.dim() == k.dim() && q.dim() == v.dim() && q.size(-1) == k.size(-1) &&
                     k.size(-2) == v.size(-2) && q.sizes().slice(0, q.dim() - 2) == k.sizes().slice(0, k.dim() - 2) &&
                     q.sizes().slice(0, q.dim() - 2) == v.sizes().slice(0, v.dim() - 2);
  if (!agree || q.numel() == 0 || k.numel() == 0) {
    throw BadArgument("Expected [..., N, D], [..., M, D] and [..., M, E] for attention but received " +
                      describeTensor(q) + ", " + describeTensor(k) + " and " + describeTensor(v));
  }
  at::Tensor output = BlockedAttention::apply(q, k, v, settings);
  return {info.Env(), slotFor(engine, std::move(output))};
}

ErrorContext inAttention(Engine&, const Napi::CallbackInfo&) { return {"attention", {}, ""}; }

}  // namespace

void exposeAttention(Engine& engine, Napi::Object exports) {
  expose<blockedAttention, inAttention>(engine, exports, "blockedAttention");
}
