// Source: the reducer of PyTorch's DistributedDataParallel (Li et al. 2020, arXiv 2006.15704). Departures: hooks are there
// for the one backward pass that completes a sum; a process learns from its first such pass, in which nothing goes out
// early, how often a parameter gets a part of its gradient; and a pass that has failed can be made again.
#include "gradient-buckets.h"

#ifdef USE_C10D_GLOO

#include <ATen/Functions.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "convert.h"
#include "error.h"
#include "group.h"

namespace {

using Node = decltype(torch::autograd::impl::grad_accumulator(std::declval<const at::Tensor&>()));

// Called after each part of a gradient that autograd has added to a parameter's.
class AfterAccumulation : public torch::autograd::FunctionPostHook {
 public:
  explicit AfterAccumulation(std::function<void()> then) : then_(std::move(then)) {}

  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    then_();
    return outputs;
  }

 private:
  std::function<void()> then_;
};

struct Parameter {
  at::Tensor tensor;
  size_t bucket = 0;
  // In the flat tensor of its bucket, where its elements lie as they do in its own memory.
  int64_t offset = 0;
  std::vector<int64_t> strides;
  // Parts of its gradient in a pass: as known so far, and in this pass. With checkpointing there may be several.
  int64_t uses = 1;
  int64_t seen = 0;
  // While hooks are there.
  Node accumulator{};
  uintptr_t hook = 0;
};

struct Bucket {
  std::vector<size_t> parameters;
  int64_t elements = 0;
  // Parameters whose gradients are not complete in this pass.
  size_t missing = 0;
  // The gradients, and for each parameter 1 where there was one, so that the sum says whether any process had one.
  at::Tensor flat;
  // What is sent: `flat`, or a copy on the CPU.
  at::Tensor sent;
  c10::intrusive_ptr<c10d::Work> work;
  // Sent in an earlier pass, which has failed later on: what this pass adds has been sent already.
  bool wasSentBefore = false;

  bool isSent() const { return work != nullptr; }
};

class GradientBuckets {
 public:
  // Parameters are in the order in which gradients become complete, roughly: buckets go out in this order.
  GradientBuckets(std::shared_ptr<Group> group, const std::vector<at::Tensor>& parameters, int64_t most)
      : group_(std::move(group)) {
    for (const at::Tensor& tensor : parameters) {
      if (tensor.scalar_type() != parameters[0].scalar_type() || tensor.device() != parameters[0].device()) {
        throw BadArgument("Expected " + describeTensor(parameters[0]) + " and all other parameters of one dtype on one " +
                          "device but received " + describeTensor(tensor));
      }
      const bool isFull = !buckets_.empty() && buckets_.back().elements + tensor.numel() > most;
      if (buckets_.empty() || isFull) buckets_.emplace_back();
      Bucket& bucket = buckets_.back();
      Parameter parameter;
      parameter.tensor = tensor;
      parameter.bucket = buckets_.size() - 1;
      parameter.offset = bucket.elements;
      parameter.strides =
          tensor.is_non_overlapping_and_dense() ? tensor.strides().vec() : tensor.new_empty(tensor.sizes()).strides().vec();
      bucket.parameters.push_back(parameters_.size());
      bucket.elements += tensor.numel();
      parameters_.push_back(std::move(parameter));
    }
  }

  ~GradientBuckets() { removeHooks(); }

  // Before a backward pass. In the last one of a sum, buckets go out as soon as they are complete.
  void begin(bool isLast) {
    removeHooks();
    isLast_ = isLast;
    for (Bucket& bucket : buckets_) {
      bucket.wasSentBefore = bucket.isSent();
      bucket.missing = bucket.parameters.size();
    }
    for (size_t i = 0; i < parameters_.size(); i++) {
      Parameter& parameter = parameters_[i];
      parameter.seen = 0;
      if (!isLast && !buckets_[parameter.bucket].wasSentBefore) continue;
      parameter.accumulator = torch::autograd::impl::grad_accumulator(parameter.tensor);
      parameter.hook = parameter.accumulator->add_post_hook(std::make_unique<AfterAccumulation>([this, i] { add(i); }));
    }
  }

  // After it. @returns how many buckets have gone out so far.
  size_t end(bool isComplete) {
    removeHooks();
    if (isLast_ && isComplete) {
      for (Parameter& parameter : parameters_) parameter.uses = std::max(parameter.uses, parameter.seen);
      knowsUses_ = true;
    }
    return next_;
  }

  // Sends what has not gone out.
  void sendAll() {
    while (next_ < buckets_.size()) sendNext();
  }

  // Waits until all have come.
  void wait() {
    for (const Bucket& bucket : buckets_) awaitWork(*group_, bucket.work, "the sum of gradients");
  }

  // Gives the parameters their sums: none to those that have no gradient anywhere.
  void take() {
    at::NoGradGuard guard;
    for (Bucket& bucket : buckets_) {
      if (!bucket.sent.is_same(bucket.flat)) bucket.flat.copy_(bucket.sent);
      const at::Tensor counts = bucket.flat.narrow(0, bucket.elements, bucket.parameters.size()).to(at::kCPU, at::kFloat);
      for (size_t i = 0; i < bucket.parameters.size(); i++) {
        Parameter& parameter = parameters_[bucket.parameters[i]];
        parameter.tensor.mutable_grad() = counts.data_ptr<float>()[i] > 0 ? partOf(bucket, parameter) : at::Tensor();
      }
      bucket.flat = bucket.sent = at::Tensor();
      bucket.work.reset();
    }
    next_ = 0;
  }

 private:
  // After a part of a gradient, on whatever thread computes it.
  void add(size_t i) {
    std::lock_guard<std::mutex> lock(mutex_);
    Parameter& parameter = parameters_[i];
    Bucket& bucket = buckets_[parameter.bucket];
    parameter.seen++;
    if (bucket.wasSentBefore) {
      parameter.tensor.mutable_grad() = at::Tensor();
      return;
    }
    if (!isLast_ || !knowsUses_) return;
    if (bucket.isSent()) {
      throw std::runtime_error("Expected " + std::to_string(parameter.uses) + " parts of the gradient of a parameter " +
                               describeTensor(parameter.tensor) + " in each backward pass, as before, but received one more");
    }
    if (parameter.seen == parameter.uses) bucket.missing--;
    while (next_ < buckets_.size() && buckets_[next_].missing == 0) sendNext();
  }

  void sendNext() {
    at::NoGradGuard guard;
    Bucket& bucket = buckets_[next_];
    const auto count = static_cast<int64_t>(bucket.parameters.size());
    const at::Tensor& first = parameters_[bucket.parameters[0]].tensor;
    // Whatever runs out of memory does so before anything has changed.
    at::Tensor flat = at::empty({bucket.elements + count}, first.options().requires_grad(false));
    at::Tensor counts = at::ones({count}, at::kFloat);
    for (int64_t i = 0; i < count; i++) {
      const Parameter& parameter = parameters_[bucket.parameters[i]];
      const at::Tensor& grad = parameter.tensor.grad();
      at::Tensor part = partOf(flat, parameter);
      if (grad.defined()) {
        part.copy_(grad);
      } else {
        part.zero_();
        counts.data_ptr<float>()[i] = 0;
      }
    }
    flat.narrow(0, bucket.elements, count).copy_(counts);
    const bool isDirect = flat.is_cpu() || group_->nccl.defined();
    std::vector<at::Tensor> sent{isDirect ? flat : flat.cpu()};
    bucket.work = collectivesFor(*group_, sent[0]).allreduce(sent);
    bucket.sent = sent[0];
    bucket.flat = std::move(flat);
    next_++;
    for (const size_t i : bucket.parameters) parameters_[i].tensor.mutable_grad() = at::Tensor();
  }

  static at::Tensor partOf(const at::Tensor& flat, const Parameter& parameter) {
    return flat.as_strided(parameter.tensor.sizes(), parameter.strides, parameter.offset);
  }
  static at::Tensor partOf(const Bucket& bucket, const Parameter& parameter) { return partOf(bucket.flat, parameter); }

  void removeHooks() {
    for (Parameter& parameter : parameters_) {
      if (parameter.accumulator == nullptr) continue;
      parameter.accumulator->del_post_hook(parameter.hook);
      parameter.accumulator = Node{};
    }
  }

  const std::shared_ptr<Group> group_;
  std::vector<Parameter> parameters_;
  std::vector<Bucket> buckets_;
  // The bucket that goes out next: all processes send them in the same order.
  size_t next_ = 0;
  bool isLast_ = false;
  bool knowsUses_ = false;
  std::mutex mutex_;
};

Numbered<GradientBuckets>& all() {
  static auto* const all = new Numbered<GradientBuckets>;
  return *all;
}

std::shared_ptr<GradientBuckets> bucketsAt(Engine& engine, napi_value value) {
  auto buckets = all().find(integerOf(engine, value, "the number of gradient buckets"));
  if (buckets == nullptr) throw BadArgument("Expected gradient buckets but they are closed");
  return buckets;
}

// openBuckets(group, parameters, most): their number. A bucket has at most so many elements, or one parameter.
Napi::Value openBuckets(Engine& engine, const Napi::CallbackInfo& info) {
  const auto parameters = tensorsAt(engine, info[1], "the parameters of gradient buckets");
  const int64_t most = integerOf(engine, info[2], "the elements of a bucket");
  const auto buckets = std::make_shared<GradientBuckets>(groupAt(engine, info[0]), parameters, most);
  return Napi::Number::New(info.Env(), static_cast<double>(all().add(buckets)));
}

// bucketsBegin(buckets, isLast)
Napi::Value bucketsBegin(Engine& engine, const Napi::CallbackInfo& info) {
  bucketsAt(engine, info[0])->begin(info[1].ToBoolean());
  return info.Env().Undefined();
}

// bucketsEnd(buckets, isComplete): how many have gone out.
Napi::Value bucketsEnd(Engine& engine, const Napi::CallbackInfo& info) {
  const size_t sent = bucketsAt(engine, info[0])->end(info[1].ToBoolean());
  return Napi::Number::New(info.Env(), static_cast<double>(sent));
}

// bucketsWait(buckets): sends the rest; a promise that all have come.
Napi::Value bucketsWait(Engine& engine, const Napi::CallbackInfo& info) {
  const auto buckets = bucketsAt(engine, info[0]);
  buckets->sendAll();
  return Promised::start(info.Env(), [buckets] {
    buckets->wait();
    return 0.0;
  });
}

// bucketsTake(buckets)
Napi::Value bucketsTake(Engine& engine, const Napi::CallbackInfo& info) {
  bucketsAt(engine, info[0])->take();
  return info.Env().Undefined();
}

// closeBuckets(buckets)
Napi::Value closeBuckets(Engine& engine, const Napi::CallbackInfo& info) {
  all().remove(integerOf(engine, info[0], "the number of gradient buckets"));
  return info.Env().Undefined();
}

}  // namespace

void exposeGradientBuckets(Engine& engine, Napi::Object exports) {
  expose<openBuckets>(engine, exports, "openBuckets");
  expose<bucketsBegin>(engine, exports, "bucketsBegin");
  expose<bucketsEnd>(engine, exports, "bucketsEnd");
  expose<bucketsWait>(engine, exports, "bucketsWait");
  expose<bucketsTake>(engine, exports, "bucketsTake");
  expose<closeBuckets>(engine, exports, "closeBuckets");
}

#endif  // USE_C10D_GLOO
