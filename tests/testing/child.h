// Runs a real process for a test: its output, its status, a kill after a while.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace furrow::testing {

struct ChildResult {
  int exit_status = -1;  // -1 when a signal ended it
  int signal = 0;
  std::string out, err;
  double seconds = 0;
};

struct ChildOptions {
  std::vector<std::pair<std::string, std::string>> environment;  // added to this process's own
  int kill_signal = 0;                                           // sent after kill_after_ms, unless 0
  int64_t kill_after_ms = 0;
  int64_t timeout_ms = 120'000;             // then SIGKILL, and the test fails
  std::function<void(pid_t)> started = {};  // called once, by the caller's thread
  // Called with the process and what it printed so far whenever it printed something.
  std::function<void(pid_t, const ChildResult&)> watch = {};
};

ChildResult run_child(const std::vector<std::string>& command, const ChildOptions& options = {});

// The same for a function of this program in a process of its own; its result is the exit status.  REQUIRES:
// this process has one thread.
ChildResult run_forked(const std::function<int()>& body, const ChildOptions& options = {});

// A folder under TMPDIR that goes with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace furrow::testing
