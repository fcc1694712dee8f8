// A communicator's share of MPI: its copy of MPI_COMM_WORLD, waiting that hears of aborts and deadlines,
// staging.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/comm/communicator.h"
#include "furrow/comm/mpi/plugin.h"

namespace furrow::comm {

// For the thread that runs the communicator's operations.  MPI's own errors are Error{unavailable}.
class MpiWires {
 public:
  // Starts MPI and waits for all ranks.  Error{failed_precondition} where its world is not the
  // communicator's, or where it does not let several threads call it.
  explicit MpiWires(Communicator& communicator);
  // The last one of the process ends MPI, except after an abort: whoever started the ranks then sees one that
  // ended without, and ends the others.
  ~MpiWires();
  MpiWires(const MpiWires&) = delete;
  MpiWires& operator=(const MpiWires&) = delete;

  MpiHandle world() const { return world_; }
  MpiHandle start(const MpiCall& call);
  // Throws the reason of an abort, and Error{deadline_exceeded} which names `whom`; the request then goes on,
  // and its buffers stay MPI's.
  void wait(MpiHandle request, int64_t deadline_ns, std::string_view whom);
  // Waits for the members: call it when they are known to come.
  MpiHandle create_group(std::span<const int> members, int tag);

  // Tags that two groups share only by accident: a message that strays is a mismatch, as its envelope says.
  enum class Use { kMessages, kMeeting };
  int tag(uint64_t channel, Use use) const;

  // 64-byte aligned; good until the next call.
  std::span<std::byte> staging(size_t bytes);

 private:
  template <class Call>
  void call(const Call& fn) const;
  void check_alive();
  static void give_up();

  Communicator& communicator_;
  const MpiPlugin& plugin_;
  MpiFacts facts_;
  MpiHandle world_ = 0;
  std::vector<MpiHandle> groups_;
  Memory staging_;
};

}  // namespace furrow::comm
