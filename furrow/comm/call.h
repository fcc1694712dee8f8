// One running operation, as an algorithm sees it: who takes part, the slices, messages, scratch.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <vector>

#include "furrow/comm/algorithm.h"
#include "furrow/comm/collective.h"
#include "furrow/comm/communicator.h"
#include "furrow/comm/operation.h"
#include "furrow/comm/reduce.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

// Registered memory that grows to what an operation needs and is kept for the next.
class Scratch {
 public:
  explicit Scratch(Communicator& communicator) : communicator_(communicator) {}
  std::span<std::byte> take(size_t bytes);  // 64-byte aligned, uninitialised, until release()
  void release();                           // of all that was taken

 private:
  Communicator& communicator_;
  std::vector<Memory> blocks_;
  std::vector<std::span<std::byte>> bytes_;  // of blocks_
  size_t block_ = 0, used_ = 0;              // of blocks_[block_]
};

// Some ranks of the group, in an order; self is the index of the own one.
struct Team {
  std::vector<int> ranks;
  int self = 0;
  int size() const { return static_cast<int>(ranks.size()); }
  int operator[](int i) const { return ranks[static_cast<size_t>(i)]; }
};

// Facts of a group that do not change.
struct Topology {
  Wires wires = Wires::kMemory;
  std::vector<int> host;  // by rank of the group: number of its host, by first appearance
  Team everybody;
};
Topology topology_of(Communicator& communicator, const GroupSpec& group);

// One step of a call; both ends give the same.
using Step = uint32_t;

class Call {
 public:
  struct Parts {
    Communicator& communicator;
    const GroupSpec& group;
    const Topology& topology;
    Scratch& scratch;
    GroupCosts* costs = nullptr;  // of the group; null where nothing runs
  };
  Call(const Parts& parts, const Collective& collective) : c(collective), parts_(parts) {}

  const Collective& c;

  int rank() const { return parts_.group.rank; }
  int size() const { return static_cast<int>(parts_.group.members.size()); }
  size_t element() const { return dtype_size(c.dtype); }
  const Team& everybody() const { return parts_.topology.everybody; }
  int64_t elements(size_t bytes) const { return static_cast<int64_t>(bytes >> std::countr_zero(element())); }
  ReduceKind reduce_kind() const { return {c.dtype, c.reduction, size()}; }
  const Topology& topology() const { return parts_.topology; }
  Wires wires() const { return parts_.topology.wires; }
  size_t payload() const;  // S in bytes

  // Slice r of the buffer that holds all slices (reduce_scatter: in, all_gather: out), in bytes.
  struct Slice {
    size_t begin = 0, bytes = 0;
  };
  Slice slice(int r) const;
  // Share r of n equal ones of `bytes` bytes, cut where a cache line begins.
  static Slice share(size_t bytes, int r, int n);

  // The operation's clock runs, and this rank's progress and costs know of it.  The first that waits calls
  // it: so the first message of a small operation leaves before, and this is done while it is on its way.
  void begin();
  int64_t started_ns() const { return started_ns_; }  // 0 before begin()

  // Ranks are those of the group; self is never a peer.
  Ticket send(int to, Step step, std::span<const std::byte> bytes);
  Ticket recv(int from, Step step, std::span<std::byte> bytes);
  void wait(Ticket ticket);
  void receive(int from, Step step, std::span<std::byte> bytes);  // waits; no other receive is under way
  void later(Ticket ticket) {
    if (ticket.id != 0) pending_.push_back(ticket);
  }  // waited for by wait_all
  void wait_all();
  void exchange(int to, std::span<const std::byte> out, int from, std::span<std::byte> in, Step step);

  // A message to read: a larger one in place where the transport can, else received into scratch.
  struct Incoming {
    int from = -1;
    Step step = 0;
    size_t size = 0;
    std::span<const std::byte> bytes = {};  // once it is opened
    std::span<std::byte> room = {};         // received there
    Window window = {};
    Ticket ticket = {};
    bool posted = false;    // the receive
    bool in_place = false;  // it is opened there
  };
  Incoming expect(int from, Step step, size_t bytes);
  Incoming expect_exposed(int from, Step step, size_t bytes);  // to write in place
  void open(Incoming& incoming);                               // waits
  void close(const Incoming& incoming);
  // Waits for a small message of a peer whose memory is seen; no copy.
  void read(int from, Step step, size_t bytes, const Reader& reader);

  int world(int rank) const { return parts_.group.members[static_cast<size_t>(rank)]; }
  bool is_registered(std::span<const std::byte> bytes) const;  // with every peer
  Ticket expose(int to, Step step,
                std::span<std::byte> bytes);  // the peer writes them; REQUIRES: wires() is kMemory
  const Envelope& envelope(Step step);        // until the next
  int algorithm() const { return envelope_.algorithm; }
  void set_envelope(uint64_t sequence, int algorithm) {  // made in its place: no copy waits for its words
    ::new (&envelope_) Envelope(envelope_of(parts_.group, c, sequence, algorithm));
  }
  const std::vector<Ticket>& pending() const { return pending_; }

  std::span<std::byte> take(size_t bytes) { return parts_.scratch.take(bytes); }
  // `bytes` themselves where every peer sees them in place, else a copy in scratch: send one buffer to
  // several.
  std::span<const std::byte> publishable(std::span<const std::byte> bytes);

 private:
  Transport& route(int rank) const;
  const Parts parts_;
  Envelope envelope_;  // of step 0, or the last that was asked for
  int64_t started_ns_ = 0, deadline_ns_ = 0;
  std::vector<Ticket> pending_;
};

}  // namespace furrow::comm
