#include "group.h"

#ifdef USE_C10D_GLOO

#include <chrono>
#include <thread>

#include "convert.h"
#include "error.h"

namespace {

// Sleeps between two looks: at first for microseconds, later for half a millisecond.
class Pause {
 public:
  void take() {
    std::this_thread::sleep_for(length_);
    length_ = std::min(length_ * 2, std::chrono::microseconds(500));
  }

 private:
  std::chrono::microseconds length_{20};
};

}  // namespace

Numbered<Group>& groups() {
  static auto* const all = new Numbered<Group>;
  return *all;
}

std::shared_ptr<Group> groupAt(Engine& engine, napi_value value) {
  auto group = groups().find(integerOf(engine, value, "the number of a group"));
  if (group == nullptr) throw BadArgument("Expected a group of processes but it is closed");
  return group;
}

Collectives& collectivesFor(const Group& group, const at::Tensor& tensor) {
  if (tensor.device().is_cpu()) return *group.gloo;
  if (tensor.device().is_cuda() && group.nccl.defined()) return *group.nccl;
  throw BadArgument("Expected a tensor on the CPU for the other workers but received " + describeTensor(tensor));
}

std::string firstLine(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

void awaitWork(Group& group, const c10::intrusive_ptr<c10d::Work>& work, const std::string& name) {
  for (Pause pause; !work->isCompleted(); pause.take()) {
    if (const std::string verdict = group.lifeline->verdict(); !verdict.empty()) throw std::runtime_error(verdict);
  }
  const std::exception_ptr problem = work->exception();
  if (problem == nullptr) return;
  try {
    std::rethrow_exception(problem);
  } catch (const std::exception& error) {
    const std::string verdict = group.lifeline->verdictAfterFault();
    throw std::runtime_error(verdict.empty() ? "Expected all workers for " + name +
                                                   " but a connection has ended: " + firstLine(error)
                                             : verdict);
  }
}

#endif  // USE_C10D_GLOO
