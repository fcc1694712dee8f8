#include "apps/furrow/progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "furrow/base/clock.h"
#include "furrow/base/text.h"

namespace furrow::app {

bool ProgressLine::on_terminal() { return ::isatty(STDERR_FILENO) == 1; }

ProgressLine::~ProgressLine() {
  if (live_ && drawn_ns_ >= 0) std::fputs("\r\033[K", stderr);
}

void ProgressLine::show(uint64_t done, uint64_t total) {
  const int64_t now = system_clock().monotonic_ns();
  if (begin_ns_ < 0 || done < done_) begin_ns_ = drawn_ns_ = now;
  done_ = done;
  if (now - drawn_ns_ < (live_ ? 100'000'000 : 2'000'000'000)) return;
  drawn_ns_ = now;
  const double seconds = static_cast<double>(now - begin_ns_) * 1e-9;
  const double rate = static_cast<double>(done) / seconds;
  const std::string line = fmt::format(
      "{} {} of {} ({:.0f} %), {}/s, {} to go", what_, format_bytes(done), format_bytes(total),
      100.0 * static_cast<double>(done) / static_cast<double>(total),
      format_bytes(static_cast<uint64_t>(rate)), format_seconds(static_cast<double>(total - done) / rate));
  fmt::print(stderr, "{}{}{}", live_ ? "\r\033[K" : "", line, live_ ? "" : "\n");
}

std::function<void(uint64_t, uint64_t)> ProgressLine::as_function() {
  return [this](uint64_t done, uint64_t total) { show(done, total); };
}

}  // namespace furrow::app
