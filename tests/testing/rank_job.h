// Jobs of several real ranks, for tests: a process in a thread of its own, so that the test can interfere.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "tests/testing/child.h"

namespace furrow::testing {

// Runs a command from construction on.
class Background {
 public:
  Background(std::vector<std::string> command, ChildOptions options);
  ~Background();  // waits for it
  Background(const Background&) = delete;
  Background& operator=(const Background&) = delete;

  pid_t pid() const;  // waits until it has one
  bool ended() const { return ended_; }
  const ChildResult& wait();                      // until it has ended
  int64_t ended_ns() const { return ended_ns_; }  // steady clock; REQUIRES: waited for

 private:
  std::atomic<pid_t> pid_{0};
  std::atomic<bool> ended_{false};
  int64_t ended_ns_ = 0;
  ChildResult result_;
  std::thread thread_;
};

int64_t steady_ns();

// The processes that `pid` started, in the order in which it did.
std::vector<pid_t> children_of(pid_t pid);

// Does a process of this number run?  A zombie does not.
bool runs(pid_t pid);

// Environment of rank `rank` of `ranks` as a launcher would give it, all on this machine.
std::vector<std::pair<std::string, std::string>> rank_environment(int rank, int ranks, int port);
int free_port();

// Names in /dev/shm, sorted, but for those of Open MPI jobs that run beside: shared memory left behind.
std::vector<std::string> shared_memory_names();

// Waits until `condition` holds; false when `seconds` are over first.
bool wait_until(const std::function<bool()>& condition, double seconds = 60);

}  // namespace furrow::testing
