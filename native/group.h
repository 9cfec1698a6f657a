// A group of processes as the addon's functions share it: its collectives, and promises of what they do.
#pragma once

#ifdef USE_C10D_GLOO

#include <napi.h>

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "c10d.h"
#include "engine.h"
#include "lifeline.h"

struct Group {
  int rank = 0;
  int size = 0;
  StorePointer store;
  CollectivesPointer gloo;
  CollectivesPointer nccl;
  std::shared_ptr<Lifeline> lifeline;
  // Whether it is a part of another group, which has the lifeline.
  bool isPart = false;
};

// What JavaScript knows by a number.
template <typename T>
class Numbered {
 public:
  int64_t add(std::shared_ptr<T> value) {
    std::lock_guard<std::mutex> lock(mutex_);
    values_.emplace(next_, std::move(value));
    return next_++;
  }

  // nullptr where there is none.
  std::shared_ptr<T> find(int64_t number) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = values_.find(number);
    return found == values_.end() ? nullptr : found->second;
  }

  void remove(int64_t number) {
    std::lock_guard<std::mutex> lock(mutex_);
    values_.erase(number);
  }

  std::vector<std::shared_ptr<T>> all() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::vector<std::shared_ptr<T>> values;
    for (const auto& [number, value] : values_) values.push_back(value);
    return values;
  }

 private:
  std::mutex mutex_;
  std::map<int64_t, std::shared_ptr<T>> values_;
  int64_t next_ = 1;
};

// All groups. One that has failed stays here: its threads wait for processes that are gone, and what they use must not be
// freed.
Numbered<Group>& groups();

std::shared_ptr<Group> groupAt(Engine& engine, napi_value value);

// The backend for a device. Throws BadArgument where there is none.
Collectives& collectivesFor(const Group& group, const at::Tensor& tensor);

// The first line of an error of libtorch or Gloo: what follows is C++.
std::string firstLine(const std::exception& error);

// Waits for a collective operation, as long as all processes are alive. Throws a sentence that names who is not.
void awaitWork(Group& group, const c10::intrusive_ptr<c10d::Work>& work, const std::string& name);

// Work on a thread of libuv's pool, with a promise of its result.
class Promised : public Napi::AsyncWorker {
 public:
  using Work = std::function<double()>;

  static Napi::Value start(Napi::Env env, Work work) {
    auto* const promised = new Promised(env, std::move(work));
    const Napi::Promise promise = promised->deferred_.Promise();
    promised->Queue();
    return promise;
  }

 protected:
  void Execute() override { result_ = work_(); }
  void OnOK() override { deferred_.Resolve(Napi::Number::New(Env(), result_)); }
  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  Promised(Napi::Env env, Work work)
      : Napi::AsyncWorker(env), work_(std::move(work)), deferred_(Napi::Promise::Deferred::New(env)) {}

  Work work_;
  Napi::Promise::Deferred deferred_;
  double result_ = 0;
};

#endif  // USE_C10D_GLOO
