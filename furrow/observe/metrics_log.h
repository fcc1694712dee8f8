// metrics.jsonl: one JSON object per logged step, flushed per line.  `step` and `samples` first, then the metrics that
// one recipe determines, then those of the machine (is_machine_metric).  A value that is not finite is null.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "furrow/observe/sink.h"

namespace furrow::observe {

class MetricsLog {
 public:
  // Keeps the records of steps <= resumed_step (0: none) and appends after them.  A torn last line is dropped, so that
  // the file of a resumed run equals that of an uninterrupted one.  Error{data_loss} on any other damaged line.
  MetricsLog(std::string path, int64_t resumed_step);
  MetricsLog(MetricsLog&& other) noexcept;
  MetricsLog& operator=(MetricsLog&&) = delete;
  ~MetricsLog();

  void append(const StepRecord& record);  // Error{resource_exhausted} when the disk is full
  void sync();                            // durable

 private:
  std::string path_;
  int fd_ = -1;
};

std::string to_json_line(const StepRecord& record);  // with the newline

// All whole records; null reads as NaN.  A file that is not there has none.  Error{data_loss} names the line.
std::vector<StepRecord> read_metrics(const std::string& path);

}  // namespace furrow::observe
