#include "furrow/comm/awake.h"

#include <atomic>
#include <mutex>

#include "furrow/base/clock.h"

namespace furrow::comm {
namespace {

constexpr int64_t kStopNs = 500'000'000;  // twice the time in which somebody asks

struct State {
  std::mutex mutex;
  int64_t asked_ns = 0;
  int wakeful = 0;
  std::atomic<int64_t> stopped_ns{0};
};

State& state() {
  static State* const one = new State;  // threads may ask until the process is gone
  return *one;
}

}  // namespace

int64_t awake_ns() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const int64_t now = system_clock().monotonic_ns();
  if (s.wakeful > 0 && now - s.asked_ns > kStopNs) s.stopped_ns += now - s.asked_ns;
  s.asked_ns = now;
  return now - s.stopped_ns;
}

int64_t stopped_ns() { return state().stopped_ns.load(std::memory_order_relaxed); }

Wakeful::Wakeful() {
  awake_ns();
  State& s = state();
  const std::lock_guard lock(s.mutex);
  ++s.wakeful;
}

Wakeful::~Wakeful() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  --s.wakeful;
}

}  // namespace furrow::comm
