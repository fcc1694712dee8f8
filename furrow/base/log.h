// The log goes to stderr; stdout is for results.  One line per message, thread safe.
#pragma once

#include <functional>
#include <string_view>

namespace furrow {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

void set_log_level(LogLevel level);  // default info; environment FURROW_LOG=debug|info|warning|error
void log(LogLevel level, std::string_view message);
inline void log_info(std::string_view message) { log(LogLevel::kInfo, message); }
inline void log_warning(std::string_view message) { log(LogLevel::kWarning, message); }

// Takes every line (newline included) instead of stderr: a progress line clears itself first, a test
// collects. Called under the log's lock, so it must not log.  An empty function restores stderr.
using LogWriter = std::function<void(std::string_view line)>;
void set_log_writer(LogWriter writer);

}  // namespace furrow
