// The real binary on several ranks, for tests/multiprocess: one config, made-up data, run folders.
#pragma once

#include <string>
#include <vector>

#include "tests/testing/child.h"

namespace furrow::testing {

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
