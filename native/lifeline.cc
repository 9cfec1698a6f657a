#include "lifeline.h"

#ifdef USE_C10D_GLOO

#include <algorithm>

namespace {

using std::chrono::milliseconds;

const std::string kVerdict = "verdict";
const std::string kSuspect = "suspect";
const std::string kLeft = "left";

// With how many missed beats a process counts as dead once a connection has broken.
constexpr int kMissedBeats = 5;

// How long rank 0 waits for the others to read a verdict.
constexpr milliseconds kFarewell(3000);

// How many times in a row the store may fail.
constexpr int kFailures = 3;

std::string beatOf(int rank) { return "beat/" + std::to_string(rank); }

std::vector<uint8_t> bytesOf(const std::string& text) { return {text.begin(), text.end()}; }

std::string seconds(milliseconds time) { return std::to_string((time.count() + 500) / 1000) + " s"; }

}  // namespace

Lifeline::Lifeline(StorePointer store, int rank, std::vector<std::string> hosts, std::string address,
                   milliseconds timeout)
    : store_(std::move(store)),
      rank_(rank),
      hosts_(std::move(hosts)),
      address_(std::move(address)),
      timeout_(timeout),
      interval_(std::clamp(timeout / 20, milliseconds(50), milliseconds(1000))),
      signs_(hosts_.size(), Sign{"", Clock::now()}),
      answered_(Clock::now().time_since_epoch().count()) {}

void Lifeline::start(const std::shared_ptr<Lifeline>& lifeline) {
  lifeline->stopped_ = false;
  std::thread([lifeline] {
    lifeline->run();
    std::lock_guard<std::mutex> lock(lifeline->mutex_);
    lifeline->stopped_ = true;
    lifeline->changed_.notify_all();
  }).detach();
}

void Lifeline::run() {
  int failures = 0;
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_for(lock, interval_, [this] { return stopping_ || !verdict_.empty(); });
      if (!verdict_.empty()) break;
      if (stopping_) return;
    }
    try {
      beat();
      failures = 0;
    } catch (const std::exception&) {
      if (++failures < kFailures) continue;
      setVerdict("Expected the store at " + address_ + ", which " + nameOf(0) +
                 " or its launcher serves, but it has ended the connection");
    }
  }
  try {
    sayFarewell();
  } catch (const std::exception&) {
    // The store is gone, or its host is.
  }
}

// Says that this process knows the verdict. Rank 0, which may serve the store, stays until all who are alive know it.
void Lifeline::sayFarewell() {
  if (rank_ != 0) return store_->set(beatOf(rank_), bytesOf(kLeft));
  const auto now = Clock::now();
  std::vector<int> alive;
  for (int other = 1; other < static_cast<int>(hosts_.size()); other++) {
    if (now - signs_[other].since < interval_ * kMissedBeats) alive.push_back(other);
  }
  const auto hasLeft = [this](int other) { return read(beatOf(other)) == kLeft; };
  while (Clock::now() < now + kFarewell && !std::all_of(alive.begin(), alive.end(), hasLeft)) {
    std::this_thread::sleep_for(milliseconds(20));
  }
}

void Lifeline::beat() {
  store_->set(beatOf(rank_), bytesOf(std::to_string(++beats_)));
  if (const std::string sentence = read(kVerdict); !sentence.empty()) return setVerdict(sentence);
  if (rank_ == 0) {
    if (!isSuspicious_ && store_->check({kSuspect})) isSuspicious_ = true;
    const milliseconds patience = isSuspicious_ ? std::min(timeout_, interval_ * kMissedBeats) : timeout_;
    for (int other = 1; other < static_cast<int>(hosts_.size()); other++) observe(other, patience);
  } else {
    observe(0, timeout_);
  }
  answered_ = Clock::now().time_since_epoch().count();
}

void Lifeline::observe(int other, milliseconds patience) {
  Sign& sign = signs_[other];
  const std::string beat = read(beatOf(other));
  if (beat == kLeft) return;
  const auto now = Clock::now();
  if (beat != sign.beat) {
    sign = {beat, now};
  } else if (now - sign.since > patience) {
    const auto silence = std::chrono::duration_cast<milliseconds>(now - sign.since);
    publish("Expected " + nameOf(other) + " to go on but it has given no sign of life for " + seconds(silence));
  }
}

std::string Lifeline::read(const std::string& key) {
  if (!store_->check({key})) return "";
  const std::vector<uint8_t> value = store_->get(key);
  return {value.begin(), value.end()};
}

void Lifeline::publish(const std::string& sentence) {
  const std::vector<uint8_t> first = store_->compareSet(kVerdict, bytesOf(""), bytesOf(sentence));
  setVerdict({first.begin(), first.end()});
}

void Lifeline::setVerdict(const std::string& sentence) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (verdict_.empty()) verdict_ = sentence;
  changed_.notify_all();
}

std::string Lifeline::verdict() {
  // A store whose host is stopped or cut off does not answer at all, and the thread waits for it.
  const Clock::time_point answered{Clock::duration(answered_)};
  const auto silence = std::chrono::duration_cast<milliseconds>(Clock::now() - answered);
  std::lock_guard<std::mutex> lock(mutex_);
  if (verdict_.empty() && !stopped_ && silence > timeout_ + interval_) {
    verdict_ = "Expected an answer of the store at " + address_ + ", which " + nameOf(0) +
               " or its launcher serves, but received none for " + seconds(silence);
  }
  return verdict_;
}

void Lifeline::accuse(const std::string& sentence) {
  try {
    publish(sentence);
  } catch (const std::exception&) {
    setVerdict(sentence);
  }
}

std::string Lifeline::verdictAfterFault() {
  isSuspicious_ = true;
  try {
    store_->set(kSuspect, bytesOf(std::to_string(rank_)));
  } catch (const std::exception&) {
    // The thread will find the store gone as well.
  }
  const auto end = Clock::now() + timeout_ + 2 * interval_;
  while (Clock::now() < end) {
    if (const std::string sentence = verdict(); !sentence.empty()) return sentence;
    std::this_thread::sleep_for(milliseconds(20));
  }
  return "";
}

void Lifeline::leave() {
  stop();
  try {
    store_->set(beatOf(rank_), bytesOf(kLeft));
    const auto end = Clock::now() + milliseconds(5000);
    const auto hasLeft = [this](int other) { return read(beatOf(other)) == kLeft; };
    for (int other = 1; rank_ == 0 && other < static_cast<int>(hosts_.size()); other++) {
      while (!hasLeft(other) && Clock::now() < end) std::this_thread::sleep_for(milliseconds(10));
    }
  } catch (const std::exception&) {
    // Nobody is left to be told.
  }
}

void Lifeline::stop() {
  std::unique_lock<std::mutex> lock(mutex_);
  stopping_ = true;
  changed_.notify_all();
  // The thread may wait for a store that will not answer.
  changed_.wait_for(lock, kFarewell + milliseconds(500), [this] { return stopped_; });
}

void Lifeline::refuse(c10d::Store& store, int rank, int size, const std::string& sentence, milliseconds patience) {
  store.set(kVerdict, bytesOf(sentence));
  const auto end = Clock::now() + patience;
  for (int other = 0; other < size; other++) {
    while (other != rank && !store.check({beatOf(other)}) && Clock::now() < end) {
      std::this_thread::sleep_for(milliseconds(20));
    }
  }
}

std::string Lifeline::refusalFor(c10d::Store& store, int rank) {
  if (!store.check({kVerdict})) return "";
  const std::vector<uint8_t> sentence = store.get(kVerdict);
  store.set(beatOf(rank), bytesOf(kLeft));
  return {sentence.begin(), sentence.end()};
}

std::string Lifeline::nameOf(int other) const { return "rank " + std::to_string(other) + " on " + hosts_[other]; }

#endif  // USE_C10D_GLOO
