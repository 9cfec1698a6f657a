#include "messages.h"

#ifdef USE_C10D_GLOO

#include <future>
#include <thread>

#include "convert.h"
#include "error.h"
#include "group.h"

namespace {

using WorkPointer = c10::intrusive_ptr<c10d::Work>;

// Says why a message did not come through: who is dead, or else what Gloo says.
[[noreturn]] void throwFault(Group& group, const std::exception_ptr& problem, const std::string& name) {
  try {
    std::rethrow_exception(problem);
  } catch (const std::exception& error) {
    const std::string verdict = group.lifeline->verdictAfterFault();
    throw std::runtime_error(verdict.empty() ? "Expected another worker for " + name +
                                                   " but a connection has ended: " + firstLine(error)
                                             : verdict);
  }
}

// Waits for a message as long as all processes are alive. Gloo has no question whether one has come, only a wait: it is on
// a thread of its own, which is left alone where a process dies.
void awaitMessage(Group& group, const WorkPointer& work, const std::string& name) {
  auto promise = std::make_shared<std::promise<void>>();
  std::future<void> future = promise->get_future();
  std::thread([promise, work] {
    try {
      work->wait();
      promise->set_value();
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  }).detach();
  while (future.wait_for(std::chrono::milliseconds(5)) != std::future_status::ready) {
    if (const std::string verdict = group.lifeline->verdict(); !verdict.empty()) throw std::runtime_error(verdict);
  }
  try {
    future.get();
  } catch (...) {
    throwFault(group, std::current_exception(), name);
  }
}

// A message is queued here, in the order of the calls, which Gloo refuses where a connection is broken already; only the
// wait is on another thread. A promise of the rank that sent or gets it.
Napi::Value message(Napi::Env env, const std::shared_ptr<Group>& group, const std::string& name,
                    const std::function<WorkPointer()>& queue, int other) {
  WorkPointer work;
  std::exception_ptr problem;
  try {
    work = queue();
  } catch (const std::exception&) {
    problem = std::current_exception();
  }
  return Promised::start(env, [group, name, work, problem, other] {
    if (problem != nullptr) throwFault(*group, problem, name);
    awaitMessage(*group, work, name);
    return static_cast<double>(other < 0 ? work->sourceRank() : other);
  });
}

std::vector<at::Tensor> hostTensor(Engine& engine, napi_value slot, const char* what) {
  const at::Tensor& tensor = tensorAt(engine, slot, what);
  if (!tensor.is_contiguous() || !tensor.device().is_cpu()) {
    throw BadArgument(std::string("Expected a contiguous tensor on the CPU for ") + what + " but received " +
                      describeTensor(tensor));
  }
  return {tensor.detach()};
}

int otherRank(Engine& engine, const Group& group, napi_value value) {
  const int64_t other = integerOf(engine, value, "a rank");
  if (other < 0 || other >= group.size || other == group.rank) throw BadArgument("Expected another rank of the group");
  return static_cast<int>(other);
}

// groupSend(group, tensor, to, tag): a promise that it has been taken.
Napi::Value groupSend(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  std::vector<at::Tensor> tensors = hostTensor(engine, info[1], "send");
  const int to = otherRank(engine, *group, info[2]);
  const int tag = static_cast<int>(integerOf(engine, info[3], "a tag"));
  return message(info.Env(), group, "send", [&] { return group->gloo->send(tensors, to, tag); }, to);
}

// groupReceive(group, tensor, from, tag): in place.
Napi::Value groupReceive(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  std::vector<at::Tensor> tensors = hostTensor(engine, info[1], "receive");
  const int from = otherRank(engine, *group, info[2]);
  const int tag = static_cast<int>(integerOf(engine, info[3], "a tag"));
  return message(info.Env(), group, "receive", [&] { return group->gloo->recv(tensors, from, tag); }, from);
}

// groupReceiveAny(group, tensor, tag): in place, from whoever sends first. A promise of its rank.
Napi::Value groupReceiveAny(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  std::vector<at::Tensor> tensors = hostTensor(engine, info[1], "receiveAny");
  const int tag = static_cast<int>(integerOf(engine, info[2], "a tag"));
  return message(info.Env(), group, "receiveAny", [&] { return group->gloo->recvAnysource(tensors, tag); }, -1);
}

}  // namespace

void exposeMessages(Engine& engine, Napi::Object exports) {
  expose<groupSend>(engine, exports, "groupSend");
  expose<groupReceive>(engine, exports, "groupReceive");
  expose<groupReceiveAny>(engine, exports, "groupReceiveAny");
}

#endif  // USE_C10D_GLOO
