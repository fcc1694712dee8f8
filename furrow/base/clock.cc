#include "furrow/base/clock.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>

namespace furrow {
namespace {

constexpr int64_t kNsPerSecond = 1'000'000'000;

int64_t read_clock(clockid_t id) {
  timespec now{};
  clock_gettime(id, &now);
  return int64_t{now.tv_sec} * kNsPerSecond + now.tv_nsec;
}

class SystemClock : public Clock {
 public:
  int64_t monotonic_ns() const override { return read_clock(CLOCK_MONOTONIC); }
  int64_t unix_ns() const override { return read_clock(CLOCK_REALTIME); }
};

// Field 22 of proc(5) stat, in clock ticks since boot; -1 where it cannot be read.
int64_t start_ticks() {
  std::ifstream file("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return -1;
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  for (int number = 3; number <= 22; ++number) {
    if (!(fields >> field)) return -1;
  }
  return std::stoll(field);
}

}  // namespace

const Clock& system_clock() {
  static const SystemClock clock;
  return clock;
}

int64_t ns_since_exec() {
  const int64_t ticks = start_ticks();
  if (ticks < 0) return 0;
  const int64_t start_ns = ticks * (kNsPerSecond / sysconf(_SC_CLK_TCK));
  return std::max<int64_t>(0, read_clock(CLOCK_BOOTTIME) - start_ns);
}

}  // namespace furrow
