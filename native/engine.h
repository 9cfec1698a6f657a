// The state of one JavaScript environment (the main thread, or a worker): its tensors, generators and operators.
//
// JavaScript never holds a pointer. It holds the index of a slot in these tables, so that whatever it does with an
// index (uses it after release, makes one up) ends in a bounds check and not in freed memory.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/stack.h>
#include <napi.h>

#include <cstdint>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "operator.h"

// A growing table whose freed slots are used again.
template <typename T>
class Slots {
 public:
  uint32_t add(T value) {
    live_++;
    if (free_.empty()) {
      values_.push_back(std::move(value));
      return static_cast<uint32_t>(values_.size() - 1);
    }
    const uint32_t slot = free_.back();
    free_.pop_back();
    values_[slot] = std::move(value);
    return slot;
  }

  // nullptr for a slot that is free or never was.
  const T* find(uint32_t slot) const {
    return slot < values_.size() && values_[slot].defined() ? &values_[slot] : nullptr;
  }

  void release(uint32_t slot) {
    if (find(slot) == nullptr) return;
    values_[slot] = T();
    free_.push_back(slot);
    live_--;
  }

  size_t live() const { return live_; }

 private:
  std::vector<T> values_;
  std::vector<uint32_t> free_;
  size_t live_ = 0;
};

struct Engine {
  explicit Engine(napi_env environment) : env(environment) {}

  napi_env env;
  Slots<at::Tensor> tensors;
  Slots<at::Generator> generators;
  // A deque: references stay valid while operators are added.
  std::deque<Operator> operators;
  std::unordered_map<std::string, int32_t> operatorNumbers;
  // The interpreter stack of boxed calls, kept for its capacity.
  torch::jit::Stack stack;
  Napi::FunctionReference errorClass;
};
