#include "furrow/observe/console.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "furrow/base/log.h"
#include "furrow/base/memory.h"
#include "furrow/base/text.h"

namespace furrow::observe {
namespace {

constexpr int64_t kRedrawNs = 100'000'000;
constexpr int kBarWidth = 20;

constexpr std::string_view kBold = "\x1b[1m", kGreen = "\x1b[32m", kYellow = "\x1b[33m", kCyan = "\x1b[36m",
                           kReset = "\x1b[0m";

std::string painted(bool color, std::string_view code, std::string text) {
  return color ? fmt::format("{}{}{}", code, text, kReset) : text;
}

// Where stderr is a pipe to a launcher that passes it on, the terminal is asked itself.
int terminal_width() {
  static const int terminal =
      ::isatty(STDERR_FILENO) == 1 ? STDERR_FILENO : ::open("/dev/tty", O_RDONLY | O_CLOEXEC);
  struct winsize size{};
  if (::ioctl(terminal, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool stderr_is_terminal() {
  const char* passed_on = std::getenv("FURROW_LIVE_LINE");
  const char* terminal = std::getenv("TERM");
  const bool reaches =
      ::isatty(STDERR_FILENO) == 1 || (passed_on != nullptr && std::string_view(passed_on) == "1");
  return reaches && terminal != nullptr && std::string_view(terminal) != "dumb";
}

void write_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;  // nobody left to tell
    text.remove_prefix(static_cast<size_t>(written));
  }
}

int64_t counted_memory_bytes() {
  int64_t sum = 0;
  for (size_t kind = 0; kind < kMemoryKinds; ++kind)
    sum += memory_usage(static_cast<MemoryKind>(kind)).current_bytes;
  return sum;
}

std::string bar(int64_t step, int64_t total) {
  const auto filled = static_cast<size_t>(std::clamp<int64_t>(step * kBarWidth / total, 0, kBarWidth));
  std::string out(filled, '=');
  if (filled < kBarWidth) out += '>';
  out.resize(kBarWidth, ' ');
  return fmt::format("[{}]", out);
}

// A piece of the live line; the least important ones go first when the terminal is narrow.
struct Piece {
  int importance;
  std::string text;
  std::string_view color = {};
};

std::string fitted(std::vector<Piece> pieces, int width, bool color) {
  const auto length = [&] {
    size_t sum = 0;
    for (const Piece& piece : pieces) sum += piece.text.size() + 2;
    return sum - (pieces.empty() ? 0 : 2);
  };
  while (pieces.size() > 1 && length() > static_cast<size_t>(std::max(1, width - 1))) {
    pieces.erase(std::min_element(pieces.begin(), pieces.end(),
                                  [](const auto& a, const auto& b) { return a.importance < b.importance; }));
  }
  std::vector<std::string> texts;
  for (const Piece& piece : pieces)
    texts.push_back(painted(color && !piece.color.empty(), piece.color, piece.text));
  return join(texts, "  ");
}

}  // namespace

ConsoleOptions stderr_console(bool disable_color) {
  ConsoleOptions options;
  const char* no_color = std::getenv("NO_COLOR");
  options.live = stderr_is_terminal();
  options.color = options.live && !disable_color && (no_color == nullptr || *no_color == '\0');
  options.width = terminal_width;
  options.write = write_stderr;
  options.memory_bytes = counted_memory_bytes;
  options.clock = &system_clock();
  return options;
}

ConsoleSink::ConsoleSink(ConsoleOptions options) : options_(std::move(options)) {}

ConsoleSink::~ConsoleSink() { release_log(); }

void ConsoleSink::begin(const std::string& run_name, const std::string& /*config_toml*/,
                        int64_t resumed_step) {
  run_name_ = run_name;
  step_ = resumed_step;
  if (!options_.live) return;
  owns_log_ = true;
  set_log_writer([this](std::string_view line) { print(line); });
}

void ConsoleSink::progress(int64_t step, int64_t total_steps) {
  step_ = step;
  total_steps_ = total_steps;
  if (!options_.live) return;
  const int64_t now_ns = options_.clock->monotonic_ns();
  if (first_step_ < 0) {
    first_step_ = step;
    first_ns_ = now_ns;
  }
  if (drawn_ns_ < 0 || now_ns - drawn_ns_ >= kRedrawNs) redraw();
}

void ConsoleSink::log(const StepRecord& record) {
  step_ = record.step;
  const bool validated = find_value(record, "validation_loss") != nullptr;
  if (!validated) last_ = record;
  if (options_.live && !validated) return;  // the next progress() shows it
  print(plain_line(record) + '\n');
}

void ConsoleSink::end(const std::string& /*status*/) {
  print("");
  release_log();
}

std::string ConsoleSink::plain_line(const StepRecord& record) const {
  std::vector<std::string> parts;
  const auto add = [&](std::string_view color, std::string text) {
    parts.push_back(painted(options_.color && !color.empty(), color, std::move(text)));
  };
  add(kCyan, fmt::format("step: {:>5}", record.step));
  for (const auto& [name, value] : record.values) {
    if (is_machine_metric(name)) continue;
    const std::string_view color = name.ends_with("loss") ? kGreen : name == "grad_norm" ? kYellow : "";
    add(color, fmt::format("{}: {:.5g}", name, value));
  }
  add("", fmt::format("memory: {}", memory_text(record)));
  if (const double* speed = find_value(record, "samples_per_second")) {
    add("", fmt::format("samples/s: {}", format_count(std::llround(*speed))));
  }
  return join(parts, "  ");
}

std::string ConsoleSink::memory_text(const StepRecord& record) const {
  const double* resident = find_value(record, "memory_bytes");
  if (resident == nullptr) resident = find_value(last_, "memory_bytes");
  return format_bytes(resident != nullptr ? static_cast<uint64_t>(*resident)
                                          : static_cast<uint64_t>(options_.memory_bytes()));
}

std::string ConsoleSink::live_line() const {
  std::vector<Piece> pieces;
  pieces.push_back({20, run_name_, kBold});
  if (total_steps_ > 0) {
    pieces.push_back({30, bar(step_, total_steps_)});
    pieces.push_back({100, fmt::format("{}/{}", format_count(step_), format_count(total_steps_)), kCyan});
  } else {
    pieces.push_back({100, fmt::format("step {}", format_count(step_)), kCyan});
  }
  if (const double* loss = find_value(last_, "loss"))
    pieces.push_back({90, fmt::format("loss {:.4f}", *loss), kGreen});
  if (const double* lr = find_value(last_, "lr")) pieces.push_back({40, fmt::format("lr {:.3g}", *lr)});
  if (const double* speed = find_value(last_, "samples_per_second")) {
    pieces.push_back({70, fmt::format("{} samples/s", format_count(std::llround(*speed)))});
  }
  pieces.push_back({50, memory_text(last_)});
  if (const std::string left = eta(); !left.empty()) pieces.push_back({80, "ETA " + left});
  return fitted(std::move(pieces), options_.width(), options_.color);
}

std::string ConsoleSink::eta() const {
  if (total_steps_ <= 0 || first_step_ < 0 || step_ <= first_step_) return "";
  const double elapsed_s = static_cast<double>(options_.clock->monotonic_ns() - first_ns_) / 1e9;
  const double left = static_cast<double>(total_steps_ - step_) / static_cast<double>(step_ - first_step_);
  const double seconds = std::round(elapsed_s * left);
  return seconds < 60 ? fmt::format("{:.0f} s", seconds) : format_seconds(seconds);
}

void ConsoleSink::redraw() {
  const std::string line = live_line();
  drawn_ns_ = options_.clock->monotonic_ns();
  const std::lock_guard lock(screen_);
  options_.write(fmt::format("\r\x1b[K{}", line));
  drawn_ = true;
}

void ConsoleSink::print(std::string_view lines) {
  const std::lock_guard lock(screen_);
  if (drawn_) options_.write("\r\x1b[K");
  drawn_ = false;
  if (!lines.empty()) options_.write(lines);
}

void ConsoleSink::release_log() {
  if (owns_log_) set_log_writer({});
  owns_log_ = false;
}

}  // namespace furrow::observe
