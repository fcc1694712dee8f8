// The seam above the transports: who carries out the collectives of a group.  comm/backends.cc is the table;
// "native" is ours, and engines that bring their own wires are further rows.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/comm/collective.h"

namespace furrow::comm {

class Communicator;

// Completion of what was started.  A cheap handle; copies are the same work.  A default-made one is complete.
class Work {
 public:
  // What a backend implements.  Thread safe.
  class State {
   public:
    virtual ~State() = default;
    virtual bool done() const = 0;
    virtual void wait() = 0;                 // rethrows the work's error, each time
    virtual int64_t started_ns() const = 0;  // Clock::monotonic_ns; 0 before
    virtual int64_t finished_ns() const = 0;
  };

  Work() = default;
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
  bool done() const { return !state_ || state_->done(); }
  void wait() {
    if (state_) state_->wait();
  }
  int64_t started_ns() const { return state_ ? state_->started_ns() : 0; }
  int64_t finished_ns() const { return state_ ? state_->finished_ns() : 0; }

 private:
  std::shared_ptr<State> state_;
};

struct GroupSpec {
  std::string name;          // "dp_shard"
  std::vector<int> members;  // ranks of the world; the index is the rank in the group
  int rank = -1;             // own index
  uint64_t channel = 0;      // same on every member, differs between groups
  bool canonical = true;     // floating sums in the canonical tree only
  bool independent = false;  // GroupOptions::independent
};

// The numbers of a group's operations, from 0: of collectives, and of the transfers to and from each member.
// For the thread whose turn it is to run them, in the order in which it does.
class OperationNumbers {
 public:
  explicit OperationNumbers(size_t members) : sent_(members), received_(members) {}
  uint64_t next(const Collective& c) {
    if (c.kind == CollectiveKind::kSend) return sent_[static_cast<size_t>(c.root_or_peer)]++;
    if (c.kind == CollectiveKind::kRecv) return received_[static_cast<size_t>(c.root_or_peer)]++;
    return collectives_++;
  }
  std::vector<uint64_t> next(std::span<const Collective> batch) {
    std::vector<uint64_t> numbers;
    for (const Collective& c : batch) numbers.push_back(next(c));
    return numbers;
  }

 private:
  uint64_t collectives_ = 0;
  std::vector<uint64_t> sent_, received_;
};

// One group, as a backend carries it.
class GroupBackend {
 public:
  virtual ~GroupBackend() = default;
  // REQUIRES: check()ed by Group.  `numbers` are the group's, and live as long.  Thread safe.
  virtual Work start(std::vector<Collective> batch, OperationNumbers& numbers) = 0;
  // The same, done on return; throws.  A backend may save itself the way through another thread.
  virtual void run(const Collective& c, OperationNumbers& numbers) = 0;
  // Runs what was started and starts no more; before the transports go.
  virtual void close() {}
  // What it would carry `c` out with, for people: "ring".
  virtual std::string algorithm_of(const Collective& c) const = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  virtual std::unique_ptr<GroupBackend> make_group(const GroupSpec& spec) = 0;
  // Memory of a device will travel: what that takes is there, or Error{not_found, failed_precondition}.
  virtual void use_device() {}
};

struct BackendRow {
  std::string_view name;  // "native"
  std::string_view summary;
  std::unique_ptr<Backend> (*make)(Communicator& communicator);
};
std::span<const BackendRow> backend_rows();
std::unique_ptr<Backend> make_backend(std::string_view name, Communicator& communicator);

}  // namespace furrow::comm
