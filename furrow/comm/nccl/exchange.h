// Operations of a group over NCCL, on memory of a CUDA device.
//
// First the members tell each other over the communicator's transports what they run, so that a mismatch is
// known by name before anything is put on the stream, and nobody waits in NCCL for a rank that has not come.
// NCCL moves bytes as they are.  It adds where its order cannot show; where it can, slices travel and are
// added in the canonical tree: on the device, by who computes there (comm/device.h), in the order of streams,
// so that nobody waits between a transfer, the additions and the transfer of sums.  Without such a one, on
// the host, by the code of the other backends.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "furrow/comm/nccl/wires.h"
#include "furrow/comm/operation.h"
#include "furrow/comm/reduce.h"
#include "furrow/comm/slices.h"

namespace furrow::comm {

// A group as its operations need it.
struct NcclGroupWires {
  Communicator& communicator;
  NcclWires& wires;
  const GroupSpec& spec;
  NcclComm comm = nullptr;             // null before the first collective
  std::map<int, NcclComm> pairs = {};  // by peer: send and recv do not wait for the other ranks

  int rank() const { return spec.rank; }
  int size() const { return static_cast<int>(spec.members.size()); }
  std::string whom() const { return "the ranks of group " + spec.name; }
  int world_rank(int member) const { return spec.members[static_cast<size_t>(member)]; }
  Transport& route(int member) const { return communicator.route(world_rank(member)); }
};

// Calls that NCCL launches together, with end().  An error in between ends the thread's group too: else all
// that the thread asks NCCL for later, an abort among it, would only be put to the group.
class NcclCalls {
 public:
  NcclCalls() { NcclWires::nccl_call(NcclWires::nccl().group_start(), "ncclGroupStart"); }
  ~NcclCalls() {
    if (open_) NcclWires::nccl().group_end();
  }
  NcclCalls(const NcclCalls&) = delete;
  NcclCalls& operator=(const NcclCalls&) = delete;
  int end() {
    open_ = false;
    return NcclWires::nccl().group_end();
  }

 private:
  bool open_ = true;
};

// Whether NCCL's own reduction keeps the rules of collective.h for `size` ranks.  It promises no order (of
// two terms there is only one), and about NaNs nothing; it rounds averages and 16-bit sums of its own.
bool nccl_adds(const Collective& c, bool canonical, int size);

// One collective; done on return.
class NcclExchange {
 public:
  NcclExchange(NcclGroupWires& group, const Collective& c, const Envelope& envelope, int64_t deadline_ns);
  void run();

 private:
  using Slices = SliceTable<int64_t>;

  Slices slices(const std::vector<int64_t>& counts, size_t bytes) const;

  void meet();
  void all_reduce();
  void reduce();
  void reduce_scatter();
  void all_gather();
  void all_to_all();
  void broadcast();

  void all_reduce_by_tree();
  void reduce_by_tree();
  void reduce_scatter_by_tree();
  // The own part of each rank's slices `s` of `in`, reduced into `out`: under way on return.
  void reduce_part(const std::byte* in, const Slices& s, std::byte* out);
  // Where `count` elements of each other rank are received, one after the other; and, with the own ones at
  // `own`, the terms of a sum by rank.
  Slices staged(int64_t count) const;
  std::vector<const std::byte*> terms(const std::byte* own, size_t bytes);
  // terms[r], of `bytes` each and all on the device, reduced into `out` there.  Those of other ranks are
  // overwritten.
  void reduce_terms(std::span<const std::byte* const> terms, size_t bytes, std::byte* out);
  void reduce_on_host(std::span<const std::byte* const> terms, size_t bytes, std::byte* out);
  void gather_in_place(std::byte* out, const Slices& s);
  // Bytes between all pairs at once; counts in elements.
  void transfer(const std::byte* in, const Slices& send, std::byte* out, const Slices& receive);

  void wait();
  const NcclApi& nccl() const { return group_.wires.nccl(); }
  CudaStream stream() const { return group_.wires.stream(); }
  // Of a call to NCCL, which may have only begun.
  void check(int result, const char* what) const {
    group_.wires.nccl_call(result, what);
    if (result == kNcclInProgress) group_.wires.settle({&group_.comm, 1}, deadline_ns_, group_.whom());
  }
  int64_t elements(std::span<const std::byte> bytes) const {
    return static_cast<int64_t>(bytes.size() / element_);
  }

  NcclGroupWires& group_;
  const Collective& c_;
  const Envelope envelope_;
  const int64_t deadline_ns_;
  const int n_, rank_;
  const size_t element_;
  const bool nccl_adds_;
};

// Sends and receives of one batch, all under way at once; done on return.  REQUIRES: as many envelopes.
void run_pairs(NcclGroupWires& group, std::span<const Collective> batch, std::span<const Envelope> envelopes,
               int64_t deadline_ns);

}  // namespace furrow::comm
