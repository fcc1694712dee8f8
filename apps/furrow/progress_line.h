// How far something is, on stderr.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace furrow::app {

// One live line on a terminal, a line every two seconds elsewhere.  Called by one thread at a time.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what) : what_(std::move(what)) {}  // "packed"
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(uint64_t done, uint64_t total);  // bytes; fewer than before: another pass has begun
  // show() of this object, which must outlive it.
  std::function<void(uint64_t done, uint64_t total)> as_function();

 private:
  const std::string what_;
  const bool live_ = on_terminal();
  uint64_t done_ = 0;
  int64_t begin_ns_ = -1, drawn_ns_ = -1;
  static bool on_terminal();
};

}  // namespace furrow::app
