// Runs a communicator's operations one at a time: in a thread of its own, or in the caller's when nothing is
// queued.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "furrow/comm/backend.h"

namespace furrow::comm {

// Thread safe.
class Engine {
 public:
  explicit Engine(std::string thread_name) : thread_name_(std::move(thread_name)) {}
  ~Engine();  // runs what is queued
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Queues `job`, or runs it here and now when `may_inline` and nothing is queued or running.  What it
  // throws, the work's wait() throws.
  Work submit(std::function<void()> job, bool may_inline);

  // Runs `job` and returns; throws what it throws.
  template <class Job>
  void run(const Job& job) {
    if (!try_enter()) return submit(job, false).wait();
    const Turn turn{*this};
    job();
  }

 private:
  class State;
  struct Turn {
    Engine& engine;
    ~Turn() { engine.leave(); }
  };

  bool try_enter() {
    uint64_t idle = 0;
    return load_.compare_exchange_strong(idle, kBusy, std::memory_order_acquire, std::memory_order_relaxed);
  }
  void leave() {
    if (load_.fetch_sub(kBusy, std::memory_order_release) != kBusy) wake();
  }
  bool take_turn();  // where jobs are queued
  void wake();
  void serve();

  static constexpr uint64_t kBusy = 1, kQueued = 2;
  const std::string thread_name_;
  std::atomic<uint64_t> load_{0};  // kBusy while a job runs, and kQueued for each in the queue
  std::mutex mutex_;               // of what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<State>> queue_;
  bool closing_ = false;
  std::jthread thread_;  // started with the first job that is queued
};

}  // namespace furrow::comm
