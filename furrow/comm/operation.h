// What surrounds an operation, whichever backend carries it out: its name, progress, errors that say where
// they happened and end all ranks, the ledger.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <exception>
#include <span>

#include "furrow/base/error.h"
#include "furrow/comm/communicator.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

// Whose price is the round between two cores or hosts, not its bytes.
inline bool is_small(const Collective& c) { return std::max(c.in.size(), c.out.size()) <= kInlineBytes; }

// A division would be the dearest instruction of a small operation; data types have sizes of powers of two.
inline int64_t elements_in(size_t bytes, DType dtype) {
  return static_cast<int64_t>(bytes >> std::countr_zero(dtype_size(dtype)));
}

inline bool is_pair(CollectiveKind kind) {
  return kind == CollectiveKind::kSend || kind == CollectiveKind::kRecv;
}

// That the caller's own thread may run these; a transfer may have to wait long for its other end.
bool may_inline(const Communicator& communicator, const GroupSpec& group, std::span<const Collective> batch);

// What every rank of the group gives alike, at step 0.  Of a send and its recv it is the same.  `algorithm`
// is a row of algorithm_rows().
Envelope envelope_of(const GroupSpec& group, const Collective& c, uint64_t sequence, int algorithm = 0);

// Clock::monotonic_ns; of a small operation as of the last tick of some ms: right on average, and enough for
// deadlines.
int64_t operation_clock_ns(const Collective& c);

// From Clock::monotonic_ns `started_ns`: the operation's own time, else the communicator's; for awake_ns().
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
  // What is known of the next one before it has run; add() makes up for it.
  void expect(const Collective& c);
  // Of `wire`, counts what crossed from this rank (reduce, send) or to it
  // (all others).  `algorithm` is a row of algorithm_rows().
  void add(const Collective& c, int algorithm, Crossed wire, int64_t busy_ns);

 private:
  Communicator& communicator_;
  const GroupSpec& group_;
  std::array<Ledger::Entry*, kCollectiveKinds> entries_{};  // the last ones used
  bool expected_ = false;
  int64_t payload_bytes_ = 0, bound_bytes_ = 0;  // of the expected one
};

}  // namespace furrow::comm
