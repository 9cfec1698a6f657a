#include "distributed.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <thread>

#include "convert.h"
#include "error.h"
#include "gradient-buckets.h"
#include "group.h"
#include "messages.h"

namespace {

#ifdef USE_C10D_GLOO

using std::chrono::milliseconds;

// What only Gloo itself would stop waiting for. The lifeline ends a wait that has become pointless; a process that is
// merely slow may take its time.
constexpr milliseconds kPatience = std::chrono::hours(24 * 7);

// The address of this machine's that packets to a host leave from; empty where there is no way.
std::string addressTowards(const std::string& host, int port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return "";
  std::string address;
  for (const addrinfo* one = found; one != nullptr && address.empty(); one = one->ai_next) {
    const int fd = socket(one->ai_family, SOCK_DGRAM, 0);
    if (fd < 0) continue;
    sockaddr_storage own{};
    socklen_t length = sizeof own;
    char text[NI_MAXHOST];
    // Connecting a datagram socket sends nothing; it only chooses the way.
    if (connect(fd, one->ai_addr, one->ai_addrlen) == 0 &&
        getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) == 0 &&
        getnameinfo(reinterpret_cast<sockaddr*>(&own), length, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0) {
      address = text;
    }
    close(fd);
  }
  freeaddrinfo(found);
  return address;
}

std::string hostName() {
  char name[256] = "an unknown host";
  gethostname(name, sizeof name - 1);
  return name;
}

struct Opening {
  std::string host;
  int port = 0;
  bool isServer = false;
  std::string prefix;
  int rank = 0;
  int size = 0;
  std::string interface;
  milliseconds timeout{0};
  milliseconds joinTimeout{0};
  // Why this process will not take part, as a sentence; empty if it does.
  std::string refusal;

  std::string address() const { return host + ":" + std::to_string(port); }
};

StorePointer openStore(const Opening& opening, bool isServer) {
  try {
    return connectStore(opening.host, static_cast<uint16_t>(opening.port), isServer, opening.joinTimeout);
  } catch (const std::exception& error) {
    const std::string wanted =
        isServer ? "rank 0 to serve the store of the workers at " : "the store of the workers, which rank 0 serves, at ";
    throw std::runtime_error("Expected " + wanted + opening.address() + " but received: " + firstLine(error));
  }
}

std::string keyOf(int rank) { return "here/" + std::to_string(rank); }

// Not all ranks have come, or one has refused to take part.
struct Missing : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Waits until every rank has written its host to the store.
std::vector<std::string> meet(c10d::Store& store, const Opening& opening) {
  const std::string own = hostName();
  store.set(keyOf(opening.rank), std::vector<uint8_t>(own.begin(), own.end()));
  std::vector<std::string> keys;
  for (int rank = 0; rank < opening.size; rank++) keys.push_back(keyOf(rank));
  const auto end = std::chrono::steady_clock::now() + opening.joinTimeout;
  for (;;) {
    if (const std::string refusal = Lifeline::refusalFor(store, opening.rank); !refusal.empty()) throw Missing(refusal);
    if (store.check(keys)) break;
    if (std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(milliseconds(20));
      continue;
    }
    std::string missing;
    for (int rank = 0; rank < opening.size; rank++) {
      if (!store.check({keyOf(rank)})) missing += (missing.empty() ? "rank " : ", rank ") + std::to_string(rank);
    }
    throw Missing("Expected " + std::to_string(opening.size) + " workers at " + opening.address() +
                             " within " + std::to_string(opening.joinTimeout.count() / 1000) + " s but " + missing +
                             " did not come");
  }
  std::vector<std::string> hosts;
  for (const std::string& key : keys) {
    const std::vector<uint8_t> host = store.get(key);
    hosts.emplace_back(host.begin(), host.end());
  }
  return hosts;
}

// `meet`, with a sentence where the store goes away meanwhile.
std::vector<std::string> meetOrSay(c10d::Store& store, const Opening& opening) {
  try {
    return meet(store, opening);
  } catch (const Missing& missing) {
    // So that the others, who find the same, do not lose the store before they can say it.
    if (opening.isServer) std::this_thread::sleep_for(milliseconds(500));
    throw;
  } catch (const std::exception& error) {
    throw std::runtime_error("Expected the store at " + opening.address() +
                             " until all workers have come but it has ended the connection: " + firstLine(error));
  }
}

// Connects on a thread of its own, which is left alone where a process dies meanwhile.
CollectivesPointer connectAll(const Opening& opening, const StorePointer& store, Lifeline& lifeline) {
  std::string address = addressTowards(opening.host, opening.port);
  if (address.empty()) address = hostName();
  auto promise = std::make_shared<std::promise<CollectivesPointer>>();
  std::future<CollectivesPointer> future = promise->get_future();
  std::thread([promise, opening, store, address] {
    try {
      promise->set_value(connectGloo(store, opening.rank, opening.size, opening.interface, address, kPatience));
    } catch (...) {
      promise->set_exception(std::current_exception());
    }
  }).detach();
  while (future.wait_for(milliseconds(20)) != std::future_status::ready) {
    if (const std::string verdict = lifeline.verdict(); !verdict.empty()) throw std::runtime_error(verdict);
  }
  try {
    return future.get();
  } catch (const std::exception& error) {
    const std::string over = opening.interface.empty() ? address : "the interface " + opening.interface;
    throw std::runtime_error("Expected to connect rank " + std::to_string(opening.rank) + " with the other workers over " +
                             over + " but received: " + firstLine(error) +
                             "; GLOO_SOCKET_IFNAME names another network interface");
  }
}

// Gloo's connections, and NCCL's where there are cards.
void connect(Group& group, const Opening& opening) {
  const StorePointer glooStore = c10::make_intrusive<c10d::PrefixStore>("gloo", group.store);
  group.gloo = connectAll(opening, glooStore, *group.lifeline);
#ifdef USE_C10D_NCCL
  const StorePointer ncclStore = c10::make_intrusive<c10d::PrefixStore>("nccl", group.store);
  if (at::hasCUDA()) group.nccl = connectNccl(ncclStore, group.rank, group.size, kPatience);
#endif
}

std::shared_ptr<Group> open(const Opening& opening) {
  auto group = std::make_shared<Group>();
  group->rank = opening.rank;
  group->size = opening.size;
  const StorePointer store = openStore(opening, opening.isServer);
  group->store = c10::make_intrusive<c10d::PrefixStore>(opening.prefix, store);
  if (!opening.refusal.empty()) {
    Lifeline::refuse(*group->store, opening.rank, opening.size, opening.refusal, opening.joinTimeout);
    throw std::runtime_error(opening.refusal);
  }
  const std::vector<std::string> hosts = meetOrSay(*group->store, opening);
  // A connection of its own, since a call on one waits for the call before it.
  const StorePointer second = c10::make_intrusive<c10d::PrefixStore>(opening.prefix, openStore(opening, false));
  group->lifeline = std::make_shared<Lifeline>(second, opening.rank, hosts, opening.address(), opening.timeout);
  Lifeline::start(group->lifeline);
  try {
    connect(*group, opening);
  } catch (...) {
    group->lifeline->stop();
    throw;
  }
  return group;
}

// The first ranks of a group, by connections of their own. Called by each of them.
std::shared_ptr<Group> openPart(const Group& whole, const Opening& opening) {
  auto part = std::make_shared<Group>();
  part->rank = opening.rank;
  part->size = opening.size;
  part->store = c10::make_intrusive<c10d::PrefixStore>("first/" + std::to_string(opening.size), whole.store);
  part->lifeline = whole.lifeline;
  part->isPart = true;
  connect(*part, opening);
  return part;
}

std::string textOf(const Napi::Object& object, const char* key) {
  const Napi::Value value = object.Get(key);
  if (!value.IsString()) throw BadArgument(std::string("Expected a string for ") + key);
  return value.As<Napi::String>();
}

// Stops the beats when the process ends, before what they use is destroyed.
void stopAll() {
  for (const auto& group : groups().all()) group->lifeline->stop();
}

// { host, port, isServer, prefix, rank, size, interface, timeout, joinTimeout, refusal }
Opening openingOf(Engine& engine, const Napi::Value& value) {
  if (!value.IsObject()) throw BadArgument("Expected an object for a group");
  const Napi::Object given = value.As<Napi::Object>();
  const auto number = [&](const char* key) { return integerOf(engine, given.Get(key), key); };
  Opening opening;
  opening.host = textOf(given, "host");
  opening.port = static_cast<int>(number("port"));
  opening.isServer = given.Get("isServer").ToBoolean();
  opening.prefix = textOf(given, "prefix");
  opening.rank = static_cast<int>(number("rank"));
  opening.size = static_cast<int>(number("size"));
  opening.interface = textOf(given, "interface");
  opening.timeout = milliseconds(number("timeout"));
  opening.joinTimeout = milliseconds(number("joinTimeout"));
  opening.refusal = textOf(given, "refusal");
  return opening;
}

// openGroup(opening): a promise of its number.
Napi::Value openGroup(Engine& engine, const Napi::CallbackInfo& info) {
  const Opening opening = openingOf(engine, info[0]);
  return Promised::start(info.Env(), [opening] { return static_cast<double>(groups().add(open(opening))); });
}

// openPart(group, opening): a promise of the number of a group of the first `size` ranks.
Napi::Value openPartOf(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  const Opening opening = openingOf(engine, info[1]);
  if (opening.rank >= opening.size || opening.size > group->size) throw BadArgument("Expected a part with this rank");
  return Promised::start(info.Env(),
                         [group, opening] { return static_cast<double>(groups().add(openPart(*group, opening))); });
}

at::Tensor contiguousAt(Engine& engine, napi_value slot, const char* what) {
  const at::Tensor& tensor = tensorAt(engine, slot, what);
  if (!tensor.is_contiguous()) {
    throw BadArgument(std::string("Expected a contiguous tensor for ") + what + " but received " +
                      describeTensor(tensor));
  }
  return tensor.detach();
}

// The operation is queued here, in the order of the calls; only the wait is on another thread.
Napi::Value waiting(Napi::Env env, const std::shared_ptr<Group>& group, const c10::intrusive_ptr<c10d::Work>& work,
                    std::string name) {
  return Promised::start(env, [group, work, name = std::move(name)] {
    awaitWork(*group, work, name);
    return 0.0;
  });
}

// groupBroadcast(group, tensor, root): in place.
Napi::Value groupBroadcast(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  std::vector<at::Tensor> tensors{contiguousAt(engine, info[1], "broadcast")};
  c10d::BroadcastOptions options;
  options.rootRank = integerOf(engine, info[2], "root");
  if (options.rootRank < 0 || options.rootRank >= group->size) throw BadArgument("Expected a rank for root");
  return waiting(info.Env(), group, collectivesFor(*group, tensors[0]).broadcast(tensors, options), "broadcast");
}

// groupAllGather(group, outputs, tensor): one output for each rank, of the tensor's shape.
Napi::Value groupAllGather(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  std::vector<std::vector<at::Tensor>> outputs{tensorsAt(engine, info[1], "the outputs of allGather")};
  std::vector<at::Tensor> inputs{contiguousAt(engine, info[2], "allGather")};
  return waiting(info.Env(), group, collectivesFor(*group, inputs[0]).allgather(outputs, inputs), "allGather");
}

// groupAllReduce(group, tensor): the sum, in place.
Napi::Value groupAllReduce(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  std::vector<at::Tensor> tensors{contiguousAt(engine, info[1], "allReduce_")};
  return waiting(info.Env(), group, collectivesFor(*group, tensors[0]).allreduce(tensors), "allReduce_");
}

Napi::Value groupBarrier(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  return waiting(info.Env(), group, group->gloo->barrier(), "barrier");
}

// groupVerdict(group): why it cannot go on, or undefined.
Napi::Value groupVerdict(Engine& engine, const Napi::CallbackInfo& info) {
  const std::string verdict = groupAt(engine, info[0])->lifeline->verdict();
  return verdict.empty() ? info.Env().Undefined() : Napi::Value(Napi::String::New(info.Env(), verdict));
}

// groupAccuse(group, sentence): a promise that all are told.
Napi::Value groupAccuse(Engine& engine, const Napi::CallbackInfo& info) {
  const auto group = groupAt(engine, info[0]);
  if (!info[1].IsString()) throw BadArgument("Expected a sentence for the other workers");
  const std::string sentence = info[1].As<Napi::String>();
  return Promised::start(info.Env(), [group, sentence] {
    group->lifeline->accuse(sentence);
    return 0.0;
  });
}

// closeGroup(group): a promise. A group that has failed is never freed, see Groups.
Napi::Value closeGroup(Engine& engine, const Napi::CallbackInfo& info) {
  const int64_t number = integerOf(engine, info[0], "the number of a group");
  auto group = groupAt(engine, info[0]);
  return Promised::start(info.Env(), [group, number]() mutable {
    const bool hasFailed = !group->lifeline->verdict().empty();
    if (!group->isPart) group->lifeline->leave();
    if (hasFailed) return 0.0;
    groups().remove(number);
    group.reset();
    return 0.0;
  });
}

#endif  // USE_C10D_GLOO

// distributedBackends(): ["gloo", "nccl"], those that were compiled in.
Napi::Value distributedBackends(Engine&, const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
#ifdef USE_C10D_GLOO
  names.Set(uint32_t{0}, "gloo");
#ifdef USE_C10D_NCCL
  names.Set(uint32_t{1}, "nccl");
#endif
#endif
  return names;
}

}  // namespace

void exposeDistributed(Engine& engine, Napi::Object exports) {
  expose<distributedBackends>(engine, exports, "distributedBackends");
#ifdef USE_C10D_GLOO
  // Not a hook of the environment, which process.exit passes over.
  static std::once_flag once;
  std::call_once(once, [] { std::atexit(stopAll); });
  expose<openGroup>(engine, exports, "openGroup");
  expose<groupBroadcast>(engine, exports, "groupBroadcast");
  expose<groupAllGather>(engine, exports, "groupAllGather");
  expose<groupAllReduce>(engine, exports, "groupAllReduce");
  expose<groupBarrier>(engine, exports, "groupBarrier");
  expose<openPartOf>(engine, exports, "openPart");
  expose<groupVerdict>(engine, exports, "groupVerdict");
  expose<groupAccuse>(engine, exports, "groupAccuse");
  expose<closeGroup>(engine, exports, "closeGroup");
  exposeGradientBuckets(engine, exports);
  exposeMessages(engine, exports);
#endif
}
