#include "apps/furrow/progress_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "furrow/base/clock.h"
#include "furrow/base/text.h"

namespace furrow::app {

bool ProgressLine::is_live() { return ::isatty(STDERR_FILENO) == 1; }

ProgressLine::~ProgressLine() {
  if (live_ && drawn_ns_ >= 0) std::fputs("\r\033[K", stderr);
}

bool ProgressLine::due(uint64_t done) {
  const int64_t now = system_clock().monotonic_ns();
  if (begin_ns_ < 0 || done < done_) begin_ns_ = drawn_ns_ = now;
  done_ = done;
  if (now - drawn_ns_ < (live_ ? 100'000'000 : 2'000'000'000)) return false;
  drawn_ns_ = now;
  return true;
}

void ProgressLine::print(const std::string& line) const {
  fmt::print(stderr, "{}{}{}", live_ ? "\r\033[K" : "", line, live_ ? "" : "\n");
}

void ProgressLine::show(uint64_t done, uint64_t total) {
  if (!due(done)) return;
  const double rate = static_cast<double>(done) / (static_cast<double>(drawn_ns_ - begin_ns_) * 1e-9);
  const std::string to_go =
      done == 0 ? "" : fmt::format(", {} to go", format_seconds(static_cast<double>(total - done) / rate));
  print(fmt::format("{} {} of {} ({:.0f} %), {}/s{}", what_, format_bytes(done), format_bytes(total),
                    100.0 * static_cast<double>(done) / static_cast<double>(total),
                    format_bytes(static_cast<uint64_t>(rate)), to_go));
}

void ProgressLine::count(uint64_t files) {
  if (due(files)) print(fmt::format("found {} files", files));
}

}  // namespace furrow::app
