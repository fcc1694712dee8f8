// How far something is, on stderr: one live line on a terminal, a line every two seconds elsewhere.
#pragma once

#include <cstdint>
#include <string>

namespace furrow::app {

// Called by one thread at a time.
class ProgressLine {
 public:
  explicit ProgressLine(std::string what) : what_(std::move(what)) {}
  ~ProgressLine();  // nothing of a live line is left
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(uint64_t done, uint64_t total);  // bytes; less than before: of another pass
  void count(uint64_t files);                // found so far, of nobody knows how many

 private:
  bool due(uint64_t done);
  void print(const std::string& line) const;

  const std::string what_;
  const bool live_ = is_live();
  static bool is_live();
  uint64_t done_ = 0;
  int64_t begin_ns_ = -1, drawn_ns_ = -1;
};

}  // namespace furrow::app
