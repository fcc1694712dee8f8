// One rank's place in a world: its transports, its thread, its groups, its ledger.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/comm/device.h"
#include "furrow/comm/group.h"
#include "furrow/comm/ledger.h"
#include "furrow/comm/memory.h"
#include "furrow/comm/report.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

class Engine;          // comm/engine.h: the queue and the thread that run operations
class AlgorithmTable;  // comm/algorithm.h: which algorithm for which size

struct CommunicatorOptions {
  int64_t timeout_ms = 600'000;  // of one operation, from its start to its end
  // The same of those that begin before end_start(): ranks load, read and compile apart.  0: timeout_ms.
  int64_t start_timeout_ms = 0;
  int64_t inline_bytes =
      16 * 1024;  // started work up to this size runs in the calling thread when nothing is queued
  std::string backend = "native";
  std::string algorithm =
      {};                   // "ring": that one wherever it fits (the ledger and tests); empty: by the table
  std::string tuning = {};  // text of a tuning file (docs/formats/comm-tuning.md); empty: built-in choice
};

struct GroupOptions {
  std::string name = "group";
  bool canonical = true;  // floating sums in the canonical tree only (collective.h)
  // Its operations run on a thread of their own, in order among themselves: they wait for no other group, and
  // no other group waits for them.  For transfers that must pass collectives on their way (pipelines).
  bool independent = false;
};

// What a rank was doing, for errors and reports.
struct Progress {
  std::string operation;  // "all_reduce 'loss' #12 of 1 float32 (sum)"; empty before the first
  std::string group;
  uint64_t sequence = 0;
  bool finished = false;
  int64_t changed_ns = 0;  // when it started or finished, Clock::monotonic_ns, to some ms
};

Report report_of(const Progress& progress);

// Thread safe.  Not movable: groups point to it.
class Communicator {
 public:
  // `transports`: the first that reaches a peer carries its messages; together they reach every rank.
  Communicator(Roster roster, std::vector<std::unique_ptr<Transport>> transports,
               CommunicatorOptions options = {});
  ~Communicator();  // waits for started work
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;

  int rank() const;
  int size() const;
  const Roster& roster() const;
  const CommunicatorOptions& options() const;

  // This rank has come through its start, and so have those that it works with: what it begins from now on
  // waits options().timeout_ms.
  void end_start();
  int64_t timeout_ms() const;  // of an operation that begins now and has none of its own

  Group world();
  // The ranks `members` of the world, in that order, the own one among them.  Needs no communication: every
  // member makes it with the same arguments; a group made again with the same name and members is another
  // group, and every member makes it as often.  Error{invalid_argument} for a rank twice, out of range, or a
  // list without the own rank.
  Group group(std::vector<int> members, GroupOptions options = {});

  // From now on memory of this device may travel, where the backend carries any; before that all memory is
  // the host's.  Every rank calls it at the same point, between operations.  Error{not_found},
  // Error{failed_precondition}: the backend lacks what it needs for that; Error{invalid_argument}: another
  // device than before.
  void use_device(RankDevice device);
  const RankDevice* device() const;  // null before

  // Memory that peers of this host see in place.
  Memory allocate(size_t bytes, MemoryKind kind = MemoryKind::kOther);

  // Ends every pending and later operation of every rank with `reason`; the first reason stays.  A rank that
  // fails by itself calls this on its way out, so that the others do not wait for their deadline.
  void abort(const Error& reason) noexcept;
  bool aborted() const;
  bool aborted_here() const;  // by this rank itself: its operation failed first, or abort() was called

  Progress progress() const;
  // How far a rank is, with an age: "all_reduce 'loss' #12 of 1 float32 (sum) in group world, begun 0.3 s
  // ago".  Of this rank and of those that share its memory exactly; of others what `reported` says, or their
  // last message where that is newer; "none" when it has begun nothing that is known.
  std::string progress_of(int rank, const Report& reported = {}) const;
  // `reason`, with "; last progress: ..." of the rank that it names, or of this one where it names none;
  // unless it says already, or this rank has begun nothing.  May ask the store, which takes a moment.
  Error with_progress(const Error& reason) const;
  // What the store knows of a rank.  REQUIRES: set before the first operation.
  void ask_for_progress(std::function<std::optional<Report>(int rank)> store);

  Ledger& ledger();
  WireBytes wire_bytes() const;                      // of all transports
  Crossed crossed_of(const GroupSpec& group) const;  // of an independent one, or of all others together
  std::string transport_of(int peer) const;

  // The algorithm that the group would carry `c` out with; for reports and tests.
  std::string would_run(const Collective& c, const Group& group) const;

  // For backends.
  void note(const GroupSpec& group, const Envelope& operation, bool finished,
            int64_t now_ns);   // for progress()
  void check_alive() const;    // throws after an abort
  void listen();               // to the peers, where no thread waits for them: to be called now and then
  Transport& route(int peer);  // REQUIRES: peer is another rank
  Engine& engine();
  const AlgorithmTable& algorithms() const;
  void set_algorithms(AlgorithmTable table);  // every rank the same, between operations (the tuner)
  int algorithms_set() const;                 // how often that was done

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace furrow::comm
