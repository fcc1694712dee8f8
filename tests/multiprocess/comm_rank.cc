// One rank over comm alone, for the tests of launchers and faults: joins, runs collectives whose results it
// checks, leaves.
//
//   comm_rank [--op all_reduce|reduce_scatter|all_gather] [--steps N] [--elements N]
//             [--transport auto|tcp|shm] [--timeout S] [--throttle T] [--config TOML]
//             [--algorithm A] [--order canonical|any] [--interface I] [--announce N] [--settle MS]
//             [--room N]
//             [--fault KIND --fault-rank R --fault-step N]
//
// KIND: throw (an Error of its own), exit (ends quietly), close (shuts every socket down), stall (computes
// for ever). Prints "joined ..." and, after --announce steps and --settle ms (others know of its
// progress after some 250), "running"; at the end "done" with what crossed the wire and by which algorithm.
// --room: it may open so many files and sockets more.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "furrow/base/clock.h"
#include "furrow/base/error.h"
#include "furrow/base/process.h"
#include "furrow/base/text.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/join.h"

namespace furrow {
namespace {

class Arguments {
 public:
  Arguments(int count, char** words) {
    for (int i = 1; i + 1 < count; i += 2) values_[std::string(words[i]).substr(2)] = words[i + 1];
  }
  std::string text(const std::string& name, const std::string& otherwise = "") const {
    const auto found = values_.find(name);
    return found == values_.end() ? otherwise : found->second;
  }
  int64_t number(const std::string& name, int64_t otherwise) const {
    int64_t value = otherwise;
    const auto found = values_.find(name);
    if (found != values_.end() && !parse_int(found->second, value)) {
      throw Error(ErrorCode::kInvalidArgument, name + " is no number");
    }
    return value;
  }

 private:
  std::map<std::string, std::string> values_;
};

void say(const std::string& line) {
  const std::string whole = line + "\n";
  if (write(STDOUT_FILENO, whole.data(), whole.size()) < 0) std::_Exit(1);
}

void close_sockets() {
  for (int descriptor = 3; descriptor < 1024; ++descriptor) shutdown(descriptor, SHUT_RDWR);
}

void commit_fault(const std::string& kind) {
  if (kind == "throw") throw Error(ErrorCode::kDataLoss, "the shard is damaged");
  if (kind == "exit") std::_Exit(0);
  if (kind == "close") close_sockets();
  if (kind == "stall") {
    while (true) pause();
  }
}

// What a rank has at an element; sums of a few are exact.
float value_at(size_t element, int rank) {
  return static_cast<float>(element % 97) * static_cast<float>(rank + 1);
}

// One operation on `elements` numbers, cut evenly among the ranks where it deals in slices.
class Operation {
 public:
  Operation(std::string name, comm::Group group, size_t elements)
      : name_(std::move(name)), group_(std::move(group)), whole_(elements) {
    const auto ranks = static_cast<size_t>(group_.size());
    for (size_t r = 0; r < ranks; ++r)
      counts_.push_back(static_cast<int64_t>(elements * (r + 1) / ranks - elements * r / ranks));
    const auto self = static_cast<size_t>(group_.rank());
    begin_ = elements * self / ranks;
    slice_.resize(static_cast<size_t>(counts_[self]));
  }

  void run() {
    const int rank = group_.rank();
    for (size_t i = 0; i < whole_.size(); ++i) whole_[i] = value_at(i, rank);
    if (name_ == "all_reduce") {
      group_.all_reduce(std::span(whole_), comm::Reduction::kSum, "gradients");
    } else if (name_ == "reduce_scatter") {
      group_.reduce_scatter(std::span<const float>(whole_), std::span(slice_), comm::Reduction::kSum, counts_,
                            "gradients");
    } else if (name_ == "all_gather") {
      for (size_t i = 0; i < slice_.size(); ++i) slice_[i] = value_at(begin_ + i, rank);
      group_.all_gather(std::span<const float>(slice_), std::span(whole_), counts_, "gradients");
    } else {
      throw Error(ErrorCode::kInvalidArgument, "--op " + name_ + " is none of the three");
    }
    check();
  }

 private:
  void check() const {
    const int ranks = group_.size();
    const int sum = ranks * (ranks + 1) / 2 - 1;  // of rank + 1, as value_at() counts
    bool right = true;
    if (name_ == "all_reduce") {
      for (size_t i = 0; i < whole_.size(); ++i) right = right && whole_[i] == value_at(i, sum);
    } else if (name_ == "reduce_scatter") {
      for (size_t i = 0; i < slice_.size(); ++i) right = right && slice_[i] == value_at(begin_ + i, sum);
    } else {
      size_t element = 0;
      for (int r = 0; r < ranks; ++r) {
        for (int64_t i = 0; i < counts_[static_cast<size_t>(r)]; ++i, ++element)
          right = right && whole_[element] == value_at(element, r);
      }
    }
    if (!right) throw Error(ErrorCode::kInternal, "the result of " + name_ + " is wrong");
  }

  std::string name_;
  comm::Group group_;
  std::vector<float> whole_, slice_;
  std::vector<int64_t> counts_;
  size_t begin_ = 0;
};

// By algorithms that add in an order of their own, too: the sums here are exact.
comm::Group group_of(const Arguments& arguments, comm::Communicator& communicator) {
  comm::Group world = communicator.world();
  if (arguments.text("order", "canonical") == "canonical") return world;
  return communicator.group(world.members(), {.name = "world", .canonical = false});
}

std::string algorithm_of(comm::Communicator& communicator) {
  for (const comm::LedgerRow& row : communicator.ledger().rows()) {
    if (row.label == "gradients")
      return std::string(comm::algorithm_rows()[static_cast<size_t>(row.algorithm)].name);
  }
  return "none";
}

void run_steps(const Arguments& arguments, comm::Membership& membership) {
  const int64_t steps = arguments.number("steps", 10), fault_step = arguments.number("fault-step", 5);
  const bool faulty = arguments.number("fault-rank", -1) == membership.world().rank;
  Operation operation(arguments.text("op", "all_reduce"), group_of(arguments, membership.communicator()),
                      static_cast<size_t>(arguments.number("elements", 1000)));
  const int64_t settled_ns = system_clock().monotonic_ns() + 1'000'000 * arguments.number("settle", 0);
  int64_t announce = arguments.number("announce", 5);
  for (int64_t step = 0; step < steps; ++step) {
    if (faulty && step == fault_step) commit_fault(arguments.text("fault"));
    operation.run();
    if (step == 0) membership.communicator().end_start();
    if (step < announce || system_clock().monotonic_ns() < settled_ns) continue;
    say("running");
    announce = steps;
  }
}

comm::JoinOptions options_of(const Arguments& arguments) {
  comm::JoinOptions options;
  options.comm.transport = arguments.text("transport", "auto");
  options.comm.train_timeout_seconds = arguments.number("timeout", 60);
  options.comm.init_timeout_seconds = 60;
  options.comm.algorithm = arguments.text("algorithm", "auto");
  options.comm.throttle = arguments.text("throttle");
  options.comm.interface = arguments.text("interface");
  options.config = arguments.text("config");
  return options;
}

// No more than `room` descriptors besides those that are open.
void leave_room(int64_t room) {
  rlim_t limit = 0;
  for (int64_t free = 0; free < room || fcntl(static_cast<int>(limit), F_GETFD) >= 0; ++limit)
    free += fcntl(static_cast<int>(limit), F_GETFD) < 0 ? 1 : 0;
  const rlimit both{limit, limit};
  setrlimit(RLIMIT_NOFILE, &both);
}

int run(int count, char** words) {
  const Arguments arguments(count, words);
  std::unique_ptr<comm::Membership> membership;
  try {
    const comm::World world = comm::discover_world(comm::process_environment());
    if (const int64_t room = arguments.number("room", -1); room >= 0) leave_room(room);
    membership = comm::join(world, options_of(arguments));
    const comm::World& known = membership->world();
    say(fmt::format("joined rank {} of {} launcher {} local {} of {} node {} pid {}", known.rank, known.size,
                    known.launcher, known.local_rank, known.local_size, known.node, process_id()));
    run_steps(arguments, *membership);
    const comm::WireBytes bytes = membership->communicator().wire_bytes();
    const std::string algorithm = algorithm_of(membership->communicator());
    membership->leave();
    say(fmt::format("done sent {} received {} overhead {} {} by {}", bytes.sent, bytes.received,
                    bytes.overhead_sent, bytes.overhead_received, algorithm));
    return 0;
  } catch (const Error& error) {
    const Error told = membership ? membership->fail(error) : error;
    std::fprintf(stderr, "error: %s\n", told.what());
    membership.reset();
    return exit_status(error.code());
  }
}

}  // namespace
}  // namespace furrow

int main(int count, char** words) { return furrow::run(count, words); }
