// metrics.jsonl: one JSON object per logged step, flushed per line, and one more with the audit of each
// process that wrote it (summary.h's to_closing_line), which is no record of a step.  `step` and `samples`
// first, then the metrics that one recipe determines, then those of the machine (is_machine_metric).  A value
// that is not finite is null.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/file.h"
#include "furrow/observe/sink.h"

namespace furrow::observe {

class MetricsLog {
 public:
  // Keeps the records of steps <= resumed_step (0: none) and appends after them.  A torn last line is
  // dropped, so that the file of a resumed run equals that of an uninterrupted one.  Error{data_loss} on any
  // other damaged line.
  MetricsLog(const std::string& path, int64_t resumed_step);

  void append(const StepRecord& record) {
    file_->append(to_json_line(record));
  }  // Error{resource_exhausted}: disk full
  void append_line(const std::string& line) { file_->append(line); }  // with its newline
  void sync() { file_->sync(); }                                      // durable on return

  static std::string to_json_line(const StepRecord& record);  // with the newline

 private:
  std::unique_ptr<AppendFile> file_;
};

// All whole records of steps; null reads as NaN.  A file that is not there has none.  Error{data_loss} names
// the line.
std::vector<StepRecord> read_metrics(const std::string& path);

// One line of the file; the audit of a closing one is left out.  Error{data_loss}.
StepRecord parse_metrics_line(std::string_view line);

}  // namespace furrow::observe
