// Several real processes at once, for tests of ranks: started together, watched one by one.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace furrow::testing {

using Variables = std::vector<std::pair<std::string, std::string>>;

struct Ended {
  int exit_status = -1;  // -1 when a signal ended it
  int signal = 0;
  int64_t at_ns = 0;  // monotonic
  std::string out, err;
};

// Each dies with the test (PR_SET_PDEATHSIG), and at the latest with this object.
class Processes {
 public:
  Processes() = default;
  ~Processes();  // SIGKILL to what is left
  Processes(const Processes&) = delete;
  Processes& operator=(const Processes&) = delete;

  // Returns its number, from 0.
  size_t start(const std::vector<std::string>& command, const Variables& environment);
  pid_t pid(size_t index) const { return all_[index].pid; }
  void send(size_t index, int signal) const;

  // Until its standard output holds `text`; false when it ends, or 60 seconds pass, before that.
  bool await_output(size_t index, const std::string& text);
  // Until it ends; throws when 120 seconds pass.
  Ended await_end(size_t index);

 private:
  struct One {
    pid_t pid = -1;
    int out = -1, err = -1;
    bool over = false;
    Ended ended;
  };
  void read_all(int timeout_ms);

  std::vector<One> all_;
};

int64_t monotonic_ns();

}  // namespace furrow::testing
