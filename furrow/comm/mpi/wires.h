// A communicator's share of MPI: its copy of MPI_COMM_WORLD, waiting that hears of aborts and deadlines,
// turns, staging.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "furrow/comm/communicator.h"
#include "furrow/comm/mpi/plugin.h"

namespace furrow::comm {

// Memory of one thread that runs operations, for what is on its way.
class MpiStaging {
 public:
  explicit MpiStaging(const Communicator& communicator) : communicator_(communicator) {}
  ~MpiStaging();  // after an abort the memory stays: a request that was given up may still write there
  MpiStaging(const MpiStaging&) = delete;
  MpiStaging& operator=(const MpiStaging&) = delete;

  // 64-byte aligned; good until the next call.
  std::span<std::byte> of(size_t bytes);

 private:
  const Communicator& communicator_;
  Memory memory_;
};

// For the threads that run the communicator's operations: MPI is called by one at a time.  MPI's own errors
// are Error{unavailable}.
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
  // Waits for the members, and for none to call MPI meanwhile: call it when they are known to come, and hold
  // the turn in theirs as in this process (MpiTurn).
  MpiHandle create_group(std::span<const int> members, int tag);

  // Tags that two groups share only by accident: a message that strays is a mismatch, as its envelope says.
  enum class Use { kMessages, kMeeting };
  int tag(uint64_t channel, Use use) const;

  MpiStaging& staging() { return staging_; }  // of the communicator's own thread

 private:
  friend class MpiTurn;
  template <class Call>
  void call(const Call& fn) const;
  template <class Done>
  void poll(const Done& done, int64_t deadline_ns, std::string_view whom);
  void check_alive();
  static void give_up();

  Communicator& communicator_;
  const MpiPlugin& plugin_;
  MpiFacts facts_;
  MpiHandle world_ = 0;
  std::vector<MpiHandle> groups_;
  MpiStaging staging_{communicator_};
};

// A process makes one group at a time: it has the turn from here on.  Waits for it as MpiWires::wait().
class MpiTurn {
 public:
  MpiTurn(MpiWires& wires, int64_t deadline_ns, std::string_view whom);
  ~MpiTurn();
  MpiTurn(const MpiTurn&) = delete;
  MpiTurn& operator=(const MpiTurn&) = delete;
};

}  // namespace furrow::comm
