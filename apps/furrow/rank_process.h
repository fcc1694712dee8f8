// One rank as a process: start, signal, end.
#pragma once

#include <signal.h>
#include <sys/types.h>

#include <string>
#include <utility>
#include <vector>

namespace furrow::app {

struct RankStart {
  std::string program;
  std::vector<std::string> words;                                // after the program's name
  std::vector<std::pair<std::string, std::string>> environment;  // replaces or adds to this process's
  std::vector<int> cores;                                        // to run on; empty: as this process
  sigset_t signals;                                              // blocked in the rank
  enum class Stdout { kInherited, kWithErrors, kOwnPipe } out = Stdout::kInherited;
};

// Where a dead rank stands: exactly one of both is meaningful.
struct RankEnd {
  int exit_status = 0;
  int signal = 0;  // 0: it exited
};

class RankProcess {
 public:
  // Forks and executes: in a process group of its own, stdin empty, killed by the system when the calling
  // thread dies.  Error{resource_exhausted}: no process, no descriptors.
  explicit RankProcess(const RankStart& start);
  ~RankProcess();  // kills what still runs
  RankProcess(RankProcess&& other) noexcept;
  RankProcess& operator=(RankProcess&&) = delete;

  bool alive() const { return pid_ > 0; }
  int errors() const { return errors_; }  // non-blocking reading end of its stderr; -1 once closed
  int output() const { return output_; }  // of its stdout, with kOwnPipe; else -1
  void close_errors();
  void close_output();

  void signal(int number) const;  // to its process group; nothing once it is dead
  // Has it ended?  Then what is left of its process group is killed too.
  bool reap(RankEnd* end);

 private:
  pid_t pid_ = -1;
  int errors_ = -1, output_ = -1;
};

}  // namespace furrow::app
