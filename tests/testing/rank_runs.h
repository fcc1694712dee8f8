// The real binary on several ranks, for tests/multiprocess: one config, made-up data, run folders.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/testing/child.h"

namespace furrow::testing {

// Words of a layout on the command line; each takes a value.
inline constexpr const char* kPipeline = "--parallelism.pipeline_parallel_degree";
inline constexpr const char* kSchedule = "--parallelism.pipeline_parallel_schedule";
inline constexpr const char* kReplicate = "--parallelism.data_parallel_replicate_degree";
inline constexpr const char* kShard = "--parallelism.data_parallel_shard_degree";
inline constexpr const char* kStage = "--parallelism.zero_stage";
inline constexpr const char* kTensor = "--parallelism.tensor_parallel_degree";

// A text that can be learned, of so many letters.
void write_made_up_words(const std::string& path, uint32_t letters);

std::string environment(const char* name);  // throws when the build did not set it

class RankRuns {
 public:
  RankRuns();  // writes the data

  std::string run(const std::string& name) const { return folder_.path() + "/runs/" + name; }
  // `ranks` 0: without --nproc.
  std::vector<std::string> start(const std::string& run, int ranks,
                                 const std::vector<std::string>& more = {}) const;
  std::vector<std::string> resume(const std::string& run, int ranks,
                                  const std::vector<std::string>& more = {}) const;
  // A run that goes on until somebody ends it.
  std::vector<std::string> endless(const std::string& run, int ranks, int silence_s = 1) const;

  const std::string& folder() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

// Steps that the run has logged; 0 before the first.
int64_t logged_step(const std::string& run_folder);

}  // namespace furrow::testing
