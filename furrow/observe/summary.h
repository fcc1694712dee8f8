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

struct Summary {
  std::string name, status;  // "finished", "interrupted", "stopped early", "failed"
  int64_t steps = 0, samples = 0;
  std::optional<double> loss, validation_loss, validation_accuracy, test_loss, test_accuracy;
  std::optional<int64_t> best_step;      // of the best model by the validation split
  double samples_per_second = 0;         // over the steps of this process, the first left out
  std::optional<RankAudit> audit;        // of a world of several ranks
  std::optional<Prediction> prediction;  // of a run that trained more than one step
  double step_time_median_ms = 0, step_time_p99_ms = 0;
  double time_to_first_step_s = 0;  // from exec
  double data_wait_s = 0;
  int64_t peak_rss_bytes = 0;
  std::array<int64_t, kMemoryKinds> memory_bytes{};  // peaks by kind, from the counting allocator
  std::array<int64_t, kMemoryKinds>
      planned_memory_bytes{};  // what programs, data and checkpoints were to need
  uint64_t seed = 0;
  int threads = 1;
  std::string furrow_version, git_commit, instruction_set, library_build;
};

std::string to_json(const Summary& summary);
Summary parse_summary(const std::string& json);  // Error{data_loss}
std::string to_table(const Summary& summary);    // for the terminal

}  // namespace furrow::observe
