#include "furrow/base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string>
#include <utility>

namespace furrow {
namespace {

LogLevel level_from_environment() {
  const char* name = std::getenv("FURROW_LOG");
  const std::string_view text = name == nullptr ? "info" : name;
  if (text == "debug") return LogLevel::kDebug;
  if (text == "warning") return LogLevel::kWarning;
  if (text == "error") return LogLevel::kError;
  return LogLevel::kInfo;
}

std::atomic<LogLevel>& threshold() {
  static std::atomic<LogLevel> level{level_from_environment()};
  return level;
}

struct Output {
  std::mutex mutex;
  LogWriter writer;
};

Output& output() {
  static Output* instance = new Output;  // never destroyed: threads may log while the process exits
  return *instance;
}

std::string_view prefix(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug: ";
    case LogLevel::kInfo:
      return "";
    case LogLevel::kWarning:
      return "warning: ";
    case LogLevel::kError:
      return "error: ";
  }
  return "";
}

void write_stderr(std::string_view line) {
  while (!line.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
    if (written <= 0) return;  // nobody left to tell
    line.remove_prefix(static_cast<size_t>(written));
  }
}

}  // namespace

void set_log_level(LogLevel level) { threshold().store(level, std::memory_order_relaxed); }

void set_log_writer(LogWriter writer) {
  const std::lock_guard lock(output().mutex);
  output().writer = std::move(writer);
}

void log(LogLevel level, std::string_view message) {
  if (level < threshold().load(std::memory_order_relaxed)) return;
  std::string line(prefix(level));
  line.append(message).push_back('\n');
  const std::lock_guard lock(output().mutex);
  if (output().writer) {
    output().writer(line);
  } else {
    write_stderr(line);
  }
}

}  // namespace furrow
