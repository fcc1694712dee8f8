#include "furrow/comm/silence.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <system_error>

#include "furrow/comm/awake.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMs = 1'000'000;
constexpr int64_t kLongestBeatMs = 250;  // a report of progress is at most so old

}  // namespace

int64_t beat_interval_ns(int64_t silence_ms) {
  return std::clamp<int64_t>(silence_ms / 4, 1, kLongestBeatMs) * kMs;
}

std::optional<int64_t> visible_process(const Member& self, const Member& member) {
  const bool here = !self.locality.empty() && member.locality == self.locality;
  return here ? std::optional(member.pid) : std::nullopt;
}

bool has_ready_thread(int64_t process) {
  std::error_code error;  // it may end meanwhile
  std::filesystem::directory_iterator task(fmt::format("/proc/{}/task", process), error), end;
  for (; !error && task != end; task.increment(error)) {
    std::ifstream file(task->path() / "stat");
    std::string stat;
    std::getline(file, stat);
    const size_t name_end = stat.rfind(") ");  // a name holds anything
    if (name_end != std::string::npos && stat.compare(name_end + 2, 1, "R") == 0) return true;
  }
  return false;
}

Silence::Silence(int64_t limit_ms) : limit_ns_(limit_ms * kMs), interval_ns_(beat_interval_ns(limit_ms)) {
  hear();
}

void Silence::hear() {
  heard_ns_ = awake_ns();
  due_ns_ = heard_ns_ + limit_ns_;
}

std::optional<int64_t> Silence::verdict(int64_t awake, std::optional<int64_t> process) {
  if (awake < due_ns_) return std::nullopt;
  if (process && has_ready_thread(*process)) {
    due_ns_ = awake + interval_ns_;
    return std::nullopt;
  }
  return awake - heard_ns_;
}

}  // namespace furrow::comm
