// One operation of a group over MPI.
//
// First every member gathers a small block of each other: what it runs, and its terms where those are small.
// So a mismatch is known, by name, before anything else moves, and small operations are done in that one
// round. Larger ones follow by MPI's collectives.  Where the order of the additions counts, or MPI has no
// such type, slices travel by MPI_Ialltoallv and are added here, in the canonical tree; else MPI adds.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <vector>

#include "furrow/comm/mpi/wires.h"
#include "furrow/comm/reduce.h"
#include "furrow/comm/slices.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

// A send that is under way.  MPI reads `envelope` until the requests are done, so it stays where it is.
struct MpiSend {
  Envelope envelope;
  std::string whom;
  std::vector<MpiHandle> requests;
};

// A group as its operations need it.
struct MpiGroupWires {
  Communicator& communicator;
  MpiWires& wires;
  const GroupSpec& spec;
  MpiStaging& staging;  // of the thread that runs its operations
  MpiHandle comm = 0;   // 0 before the first collective

  int rank() const { return spec.rank; }
  int size() const { return static_cast<int>(spec.members.size()); }
  std::string describe(int rank) const;  // "rank 3 (host a, pid 4711)"
};

// Whether MPI's own reduction keeps the rules of collective.h.  It promises no order, nothing about NaNs, has
// no 16-bit floating types, and Open MPI 4.1.4 was seen to add bytes otherwise than modulo 256.
bool mpi_adds(const Collective& c, bool canonical);

class MpiExchange {
 public:
  MpiExchange(MpiGroupWires& group, const Collective& c, const Envelope& envelope, int64_t deadline_ns);

  // A send goes on after the return, in `sends`.
  void run(std::deque<MpiSend>& sends);

  // By this rank's own count: MPI does not tell.  What MPI adds itself counts as the least that it needs.
  Crossed moved() const { return moved_.crossed(); }

 private:
  using Slices = SliceTable<int>;  // as MPI counts

  Slices slices(const std::vector<int64_t>& counts, size_t bytes) const;
  void refuse_many(int64_t elements) const;

  void meet();
  void stand_together(int tag);
  void make_in_turn(int tag);
  void nothing(MpiOp op, int member, int tag);
  void gather_blocks();
  size_t most_own_bytes() const;
  std::span<const std::byte> own_terms() const;
  void finish_small();

  void all_reduce();
  void reduce();
  void reduce_scatter();
  void all_gather();
  void gather_in_place(std::span<std::byte> out, const Slices& s);
  void all_to_all();
  void check_counts(const Slices& sent, const Slices& expected);
  void broadcast();
  void send(std::deque<MpiSend>& sends);
  void recv();

  // The own part [begin, begin + own) of the own slice of `in`, reduced over the ranks into `out`.
  void reduce_part(const std::byte* in, const Slices& s, std::byte* out);
  void all_reduce_by_tree(std::span<const std::byte> in, std::span<std::byte> out);
  void reduce_by_tree();
  void reduce_scatter_by_tree();
  void reduce_scatter_by_mpi();

  void collective(MpiCall call);  // on the group's communicator; waits
  ReduceKind reduce_kind() const { return {c_.dtype, c_.reduction, n_}; }
  int64_t elements(std::span<const std::byte> bytes) const {
    return static_cast<int64_t>(bytes.size() / element_);
  }

  MpiGroupWires& group_;
  const Collective& c_;
  const Envelope envelope_;
  const int64_t deadline_ns_;
  const int n_, rank_;
  const size_t element_;
  const bool mpi_adds_;
  std::span<const std::byte> blocks_;  // of gather_blocks
  WireBytes moved_;
};

}  // namespace furrow::comm
