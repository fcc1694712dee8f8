// Injected time and cancellation, so that tests need not sleep.
#pragma once

#include <atomic>
#include <cstdint>

namespace furrow {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t monotonic_ns() const = 0;
  virtual int64_t unix_ns() const = 0;
};

const Clock& system_clock();

// A clock that a test sets by hand.  Thread safe.
class ManualClock : public Clock {
 public:
  int64_t monotonic_ns() const override { return now_ns_.load(); }
  int64_t unix_ns() const override { return now_ns_.load(); }
  void advance_ns(int64_t ns) { now_ns_ += ns; }

 private:
  std::atomic<int64_t> now_ns_{0};
};

// Asked to stop?  Set from a signal handler or another thread, polled between instructions.
class CancelToken {
 public:
  void cancel(int reason = 1) { reason_.store(reason, std::memory_order_relaxed); }  // async-signal-safe
  bool cancelled() const { return reason() != 0; }
  int reason() const { return reason_.load(std::memory_order_relaxed); }  // 0 or, for a signal, its number

 private:
  std::atomic<int> reason_{0};
};

// Nanoseconds since this process was exec'ed (from /proc/self/stat, clock-tick resolution of 10 ms).
int64_t ns_since_exec();

}  // namespace furrow
