// Who of a group is alive. A thread of every process writes a beat to the store; rank 0 reads the beats of all others,
// and they read that of rank 0. Whoever misses one writes a verdict to the store, a sentence that names the rank, which
// every process then gives as its reason to stop.
//
// The thread beats while JavaScript is busy: what it shows is that the process runs and reaches the store.
#pragma once

#ifdef USE_C10D_GLOO

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "c10d.h"

class Lifeline {
 public:
  using Clock = std::chrono::steady_clock;

  // `store` is a connection that nothing else uses; `address` is that of the store, and `hosts` are those of the ranks.
  Lifeline(StorePointer store, int rank, std::vector<std::string> hosts, std::string address,
           std::chrono::milliseconds timeout);

  // Begins to beat; the thread keeps the lifeline alive.
  static void start(const std::shared_ptr<Lifeline>& lifeline);

  // Why the group cannot go on; empty as long as it can.
  std::string verdict();

  // Tells all why the group cannot go on, unless another process has done so before.
  void accuse(const std::string& sentence);

  // After a broken connection: rank 0 looks for the cause with less patience. Waits for a verdict. Empty if none comes.
  std::string verdictAfterFault();

  // Says goodbye, so that nobody misses this process, and stops the beats. Rank 0 waits for the others for a moment,
  // because it may serve the store.
  void leave();

  // Stops the beats without a word.
  void stop();

  // Before there is a lifeline: tells all others, as they come, why this process will not take part. Waits until they know,
  // but no longer than `patience`.
  static void refuse(c10d::Store& store, int rank, int size, const std::string& sentence,
                     std::chrono::milliseconds patience);

  // What another process has refused with; empty if none has. The store knows then that this one has read it.
  static std::string refusalFor(c10d::Store& store, int rank);

 private:
  void run();
  void sayFarewell();
  void beat();
  void observe(int other, std::chrono::milliseconds patience);
  void publish(const std::string& sentence);
  void setVerdict(const std::string& sentence);
  std::string read(const std::string& key);
  std::string nameOf(int other) const;

  const StorePointer store_;
  const int rank_;
  const std::vector<std::string> hosts_;
  const std::string address_;
  const std::chrono::milliseconds timeout_;
  const std::chrono::milliseconds interval_;

  struct Sign {
    std::string beat;
    Clock::time_point since;
  };
  std::vector<Sign> signs_;
  int64_t beats_ = 0;
  std::atomic<Clock::rep> answered_;
  std::atomic<bool> isSuspicious_{false};

  std::mutex mutex_;
  std::condition_variable changed_;
  std::string verdict_;
  bool stopping_ = false;
  bool stopped_ = true;
};

#endif  // USE_C10D_GLOO
