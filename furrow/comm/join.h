// A rank joins its world: environment -> store -> transports -> communicator.
//
//   auto membership = join(discover_world(process_environment()), {.comm = config.comm, .config = text});
//   try {
//     train(membership->communicator());
//     membership->leave();
//   } catch (const Error& error) {
//     throw membership->fail(error);  // the others end within a second, naming this rank and its error
//   }
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "furrow/base/clock.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/communicator.h"
#include "furrow/comm/transport.h"
#include "furrow/comm/world.h"
#include "furrow/config/comm.h"

namespace furrow::comm {

struct JoinOptions {
  config::Comm comm = {};
  std::string config = "";                // what must be equal on every rank, as TOML
  CommunicatorOptions communicator = {};  // time-outs, backend and algorithm are taken from `comm`
  const CancelToken* cancel = nullptr;    // ends waiting for others, until all have joined
};

// This rank's place in a world.  Belongs to one thread; what it gives is as thread safe as it says itself.
class Membership {
 public:
  virtual ~Membership() = default;  // neither left nor failed: the others are told that this rank ended early

  virtual const World& world()
      const = 0;  // with local_rank, local_size and node counted where no launcher says
  virtual Communicator& communicator() = 0;  // REQUIRES: neither left nor failed
  virtual Rendezvous& store() = 0;           // shared by all ranks; small values
  // What carries messages to the ranks whose memory this one does not see; nothing where there are none.
  virtual std::optional<AlgorithmTable::Link> link() const = 0;

  // This rank has finished: ends its communication, says goodbye; rank 0 waits for everybody else's.  Throws
  // when another rank failed meanwhile.
  virtual void leave() = 0;
  // This rank ends with `reason`: the others hear it and end, too.  Returns it with this rank's name and last
  // progress, unless it tells a rank and how far that was, or no operation has begun.
  virtual Error fail(const Error& reason) noexcept = 0;
};

// Waits for every rank.  Error{deadline_exceeded} after comm.init_timeout_seconds names who has not come;
// Error{failed_precondition}, on every rank, the one that runs another version, commit or configuration;
// Error{cancelled} when `options.cancel` says so.  Of a failure before all have come rank 0 stays to tell
// those that start later, until comm.init_timeout_seconds or `options.cancel`. Error{invalid_argument} an
// algorithm or throttle for a backend that is not ours; Error{failed_precondition} backend mpi where no MPI
// started the ranks.  A world of one opens no socket, starts no thread and no engine.
std::unique_ptr<Membership> join(const World& world, const JoinOptions& options);

// Instead of join(): a rank that fails before it, for reasons of its own (a configuration that does not
// read), tells the others, which would wait for it.  Returns when they have heard, or after
// `patience_seconds`.
void tell_world(const World& world, const Error& reason, int64_t patience_seconds) noexcept;

}  // namespace furrow::comm
