// What surrounds an operation, whichever backend carries it out: its name, progress, errors that say where
// they happened and end all ranks, the ledger.
#pragma once

#include <array>
#include <cstdint>
#include <exception>

#include "furrow/base/error.h"
#include "furrow/comm/communicator.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

inline bool is_pair(CollectiveKind kind) {
  return kind == CollectiveKind::kSend || kind == CollectiveKind::kRecv;
}

// What every rank of the group gives alike.  Of a send and its recv it is the same; step and algorithm are 0.
Envelope envelope_of(const GroupSpec& group, const Collective& c, uint64_t sequence);

// From Clock::monotonic_ns `started_ns`: the operation's own time, else the communicator's.
int64_t deadline_of(const Communicator& communicator, const Collective& c, int64_t started_ns);

// Aborts the communicator with `error` and where it happened, and throws that.
[[noreturn]] void fail_operation(Communicator& communicator, const GroupSpec& group, const Envelope& envelope,
                                 const Error& error);

// Runs body(); what it throws fails the operation envelope().
template <class MakeEnvelope, class Body>
void guard_operation(Communicator& communicator, const GroupSpec& group, const MakeEnvelope& envelope,
                     const Body& body) {
  try {
    communicator.check_alive();
    body();
  } catch (const Error& error) {
    fail_operation(communicator, group, envelope(), error);
  } catch (const std::exception& error) {
    fail_operation(communicator, group, envelope(), Error(ErrorCode::kInternal, error.what()));
  }
}

// A group's rows of the ledger.  For the thread that runs its operations.
class GroupCosts {
 public:
  GroupCosts(Communicator& communicator, const GroupSpec& group)
      : communicator_(communicator), group_(group) {}
  // Of `wire`, counts what crossed from this rank (reduce, send) or to it (all others).  `algorithm` is a row
  // of algorithm_rows().
  void add(const Collective& c, int algorithm, const WireBytes& wire, int64_t busy_ns);

 private:
  Communicator& communicator_;
  const GroupSpec& group_;
  std::array<Ledger::Entry*, kCollectiveKinds> entries_{};  // the last ones used
};

}  // namespace furrow::comm
