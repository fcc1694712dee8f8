// Callers at the ports of processes who are no ranks of theirs: while one of these lives, every port at which
// they listen is called again and again by some that send garbage, half a handshake, a wrong proof, a byte
// now and then or nothing, and that stay, hang up or reset.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <stop_token>
#include <thread>
#include <vector>

namespace furrow::testing {

// TCP ports at which a process listens now.
std::set<int> listening_ports(pid_t pid);

class Strangers {
 public:
  static constexpr size_t kKinds = 7;

  explicit Strangers(std::vector<pid_t> processes);
  ~Strangers();
  Strangers(const Strangers&) = delete;
  Strangers& operator=(const Strangers&) = delete;

  int64_t calls() const { return calls_; }
  // Of each process, the ports where every kind has been so far.
  std::map<pid_t, std::set<int>> called() const;

 private:
  struct Caller {
    int descriptor = -1;
    size_t kind = 0;
  };
  void run(const std::stop_token& stop);
  void call(pid_t process, int port);
  void go_on(Caller& caller);  // of those that take their time

  const std::vector<pid_t> processes_;
  std::atomic<int64_t> calls_{0};
  mutable std::mutex mutex_;
  std::map<pid_t, std::map<int, size_t>> kinds_;  // how many have been at a port
  std::vector<Caller> callers_;                   // of the thread
  std::jthread thread_;                           // last: it uses all of the above
};

}  // namespace furrow::testing
