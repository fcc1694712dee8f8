// Progress for a person: one live line on a terminal, a plain line per record elsewhere.
//
//   terminal:  convnet-001  [=====>        ]  1,240/9,380  loss 0.4312  lr 0.0231  5,210 samples/s  64.2 MiB
//   ETA 1 m 20 s elsewhere: step: 1240  loss: 0.4312  grad_norm: 1.52  lr: 0.0231  memory: 64.2 MiB
//   samples/s: 5,210
//
// Not thread safe, but log lines of other threads pass through it while it is live.
#pragma once

#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/observe/sink.h"

namespace furrow::observe {

struct ConsoleOptions {
  bool live = false;  // a terminal: redraw one line
  bool color = false;
  std::function<int()> width;                   // columns now; asked at every redraw
  std::function<void(std::string_view)> write;  // where it goes: stderr
  std::function<int64_t()> memory_bytes;        // in use now, where a record has no memory_bytes
  const Clock* clock = nullptr;
};

// For stderr: live when it is a terminal, or a pipe whose reader passes it on to one (FURROW_LIVE_LINE=1),
// with colour unless `disable_color` or the environment has NO_COLOR.
ConsoleOptions stderr_console(bool disable_color);

class ConsoleSink : public Sink {
 public:
  explicit ConsoleSink(ConsoleOptions options);
  ~ConsoleSink() override;
  ConsoleSink(const ConsoleSink&) = delete;
  ConsoleSink& operator=(const ConsoleSink&) = delete;

  void begin(const std::string& run_name, const std::string& config_toml, int64_t resumed_step) override;
  void progress(int64_t step, int64_t total_steps) override;  // redraws at most ten times a second
  void log(const StepRecord& record) override;
  void artifact(const std::string& /*name*/, const std::string& /*path*/) override {}
  void end(const std::string& status) override;

 private:
  std::string live_line() const;
  std::string plain_line(const StepRecord& record) const;
  std::string memory_text(const StepRecord& record) const;
  std::string eta() const;
  void redraw();
  void print(std::string_view lines);  // in place of the live line
  void release_log();

  ConsoleOptions options_;
  std::string run_name_;
  StepRecord last_;
  int64_t step_ = 0, total_steps_ = 0;
  int64_t first_step_ = -1,
          first_ns_ = 0;  // where the speed is measured from: after the first step of this process
  int64_t drawn_ns_ = -1;
  bool owns_log_ = false;
  std::mutex screen_;  // guards drawn_ and the order of what is written
  bool drawn_ = false;
};

}  // namespace furrow::observe
