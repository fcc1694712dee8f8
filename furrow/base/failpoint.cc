#include "furrow/base/failpoint.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "furrow/base/error.h"

namespace furrow {
namespace {

enum class Action { kKill, kError, kNoSpace, kDelay };

struct Armed {
  Action action = Action::kError;
  int64_t delay_ms = 0;
  int64_t first_pass = 1;
  int64_t passes = 0;
};

using ArmedMap = std::map<std::string, Armed, std::less<>>;

std::mutex& mutex() {
  static std::mutex instance;
  return instance;
}

ArmedMap& armed() {
  static ArmedMap instance;
  return instance;
}

[[noreturn]] void malformed(std::string_view item) {
  throw Error(
      ErrorCode::kInvalidArgument,
      fmt::format(
          "failpoint '{}' is malformed: write name=kill|error|enospc|delay:MS, with @N at the end for the "
          "N-th pass, separated by commas",
          item));
}

int64_t parse_count(std::string_view digits, std::string_view item) {
  int64_t value = 0;
  const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (status != std::errc{} || end != digits.data() + digits.size() || value < 0) malformed(item);
  return value;
}

Armed parse_action(std::string_view action, std::string_view item) {
  Armed result;
  if (const size_t at = action.find('@'); at != std::string_view::npos) {
    result.first_pass = parse_count(action.substr(at + 1), item);
    action = action.substr(0, at);
  }
  if (action == "kill") {
    result.action = Action::kKill;
  } else if (action == "error") {
    result.action = Action::kError;
  } else if (action == "enospc") {
    result.action = Action::kNoSpace;
  } else if (action.starts_with("delay:")) {
    result.action = Action::kDelay;
    result.delay_ms = parse_count(action.substr(6), item);
  } else {
    malformed(item);
  }
  return result;
}

ArmedMap parse_list(std::string_view list) {
  ArmedMap result;
  while (!list.empty()) {
    const size_t comma = std::min(list.find(','), list.size());
    const std::string_view item = list.substr(0, comma);
    const size_t equals = item.find('=');
    if (equals == std::string_view::npos || equals == 0) malformed(item);
    result[std::string(item.substr(0, equals))] = parse_action(item.substr(equals + 1), item);
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return result;
}

// A wrong list must not look like a passing test: the process ends before main.
bool arm_from_environment() {
  const char* list = std::getenv("FURROW_FAILPOINTS");
  if (list == nullptr) return false;
  try {
    armed() = parse_list(list);
  } catch (const Error& error) {
    std::fprintf(stderr, "FURROW_FAILPOINTS: %s\n", error.what());
    _exit(exit_status(error.code()));
  }
  return !armed().empty();
}

}  // namespace

namespace detail {

std::atomic<bool> failpoints_armed{arm_from_environment()};

void failpoint_hit(std::string_view name) {
  Armed due;
  {
    const std::lock_guard lock(mutex());
    const auto found = armed().find(name);
    if (found == armed().end() || ++found->second.passes < found->second.first_pass) return;
    due = found->second;
  }
  switch (due.action) {
    case Action::kKill:
      kill(getpid(), SIGKILL);
      break;
    case Action::kError:
      throw Error(ErrorCode::kInternal, fmt::format("failpoint {}", name));
    case Action::kNoSpace:
      throw Error(ErrorCode::kResourceExhausted, fmt::format("failpoint {}: No space left on device", name));
    case Action::kDelay:
      std::this_thread::sleep_for(std::chrono::milliseconds(due.delay_ms));
      break;
  }
}

}  // namespace detail

void arm_failpoints(std::string_view list) {
  ArmedMap parsed = parse_list(list);
  const std::lock_guard lock(mutex());
  armed() = std::move(parsed);
  detail::failpoints_armed.store(!armed().empty(), std::memory_order_relaxed);
}

}  // namespace furrow
