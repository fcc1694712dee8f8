// summary.json: the figures of a run that scripts rely on.  Absent values are left out of the file.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/memory.h"
#include "furrow/observe/prediction.h"
#include "furrow/observe/rank_audit.h"

namespace furrow::observe {

// A rank's device with memory of its own, as libtorch's allocator there counts it.
struct DeviceUse {
  std::string name;
  int64_t memory_bytes = 0;    // that it has; 0: unknown
  int64_t planned_bytes = 0;   // of planned_memory_bytes what lies there
  int64_t peak_bytes = 0;      // of tensors
  int64_t reserved_bytes = 0;  // taken from the device for them, at most
};

struct Summary {
  std::string name, status;  // "finished", "interrupted", "stopped early", "failed"
  int64_t steps = 0, samples = 0;
  std::optional<double> loss, validation_loss, validation_accuracy, test_loss, test_accuracy;
  std::optional<int64_t> best_step;      // of the best model by the validation split
  double samples_per_second = 0;         // over the steps of this process, the first left out
  std::optional<RankAudit> audit;        // of one rank: its layout alone
  std::optional<Prediction> prediction;  // of a run that trained more than one step
  double step_time_median_ms = 0, step_time_p99_ms = 0;
  double time_to_first_step_s = 0;  // from exec
  double data_wait_s = 0;
  int64_t saves = 0;       // of checkpoints, by this process
  double save_wait_s = 0;  // that training stood still for those at an interval
  int64_t peak_rss_bytes = 0;
  // Peaks by kind, from the counting allocator, of all that was trained, validated and saved.
  std::array<int64_t, kMemoryKinds> memory_bytes{};
  std::array<int64_t, kMemoryKinds>
      planned_memory_bytes{};  // what programs, data and checkpoints were to need
  // What came after it (the test, the export, the pictures): peaks of the kinds that rose above
  // memory_bytes, 0 for the others.
  std::array<int64_t, kMemoryKinds> closing_memory_bytes{};
  std::optional<DeviceUse> device;  // of rank 0
  uint64_t seed = 0;
  int threads = 1;
  std::string processor;   // its model: "AMD EPYC 9454"
  std::string arithmetic;  // what units compute in, and on which instructions
  std::string furrow_version, git_commit, instruction_set, library_build;
};

std::string to_json(const Summary& summary);
Summary parse_summary(const std::string& json);  // Error{data_loss}
std::string to_table(const Summary& summary);    // for the terminal

// The last line that a process adds to metrics.jsonl, with the newline: step, samples, and under `audit` what
// ranks sent and waited for and what memory they took, in the keys of summary.json.
std::string to_closing_line(const Summary& summary);

}  // namespace furrow::observe
