// The door of libfurrow_mpi.so: what furrow, which links no MPI, finds in it by dlopen and dlsym.  The
// library moves bytes and asks MPI to add; it links nothing of furrow, and knows no group, label or order.
//
// One thread at a time calls.  Both sides are of one build: `furrow_version` says so, and the caller compares
// it.
#pragma once

#include <cstdint>
#include <span>

#include "furrow/base/array.h"
#include "furrow/comm/collective.h"

namespace furrow::comm {

using MpiHandle = uint64_t;    // the bits of an MPI_Comm or MPI_Request
using MpiError = const char*;  // null, or MPI's words, good until the next call

struct MpiFacts {
  int rank = 0, size = 1;            // in MPI_COMM_WORLD
  int tag_bound = 0;                 // largest tag
  bool serialized = false;           // any thread may call, one at a time
  const char* thread_level = "";     // what MPI provides: "MPI_THREAD_SINGLE"
  const char* library_version = "";  // "Open MPI v4.1.4, ..."
};

enum class MpiOp : uint8_t {
  kSend,           // in, send_count, peer, tag
  kRecv,           // out, recv_count, peer, tag
  kAllGather,      // in, out: send_count elements of each rank
  kAllGatherV,     // out, recv_counts, recv_offsets: the own slice lies in its place
  kAllToAllV,      // in, send_counts, send_offsets, out, recv_counts, recv_offsets
  kGather,         // in (null on the root: its place in out stays as it is), out, send_count, peer
  kBroadcast,      // out (on the root too), recv_count, peer
  kAllReduce,      // out, recv_count: out holds the own terms
  kReduce,         // in (null on the root: out holds its terms), out, send_count, peer
  kReduceScatter,  // in, out, recv_counts
};

// Counts and offsets in elements of `dtype`; arrays and buffers live until the request is done.
struct MpiCall {
  MpiOp op = MpiOp::kSend;
  MpiHandle comm = 0;
  DType dtype = DType::kU8;
  Reduction reduction = Reduction::kSum;  // avg: MPI adds
  const void* in = nullptr;
  void* out = nullptr;
  int send_count = 0, recv_count = 0;
  const int *send_counts = nullptr, *send_offsets = nullptr;
  const int *recv_counts = nullptr, *recv_offsets = nullptr;
  int peer = 0;  // or root
  int tag = 0;
};

// MPI is asked to reduce f64, f32, i64 and i32; sums and products of the integers wrap.
struct MpiPlugin {
  const char* furrow_version;
  // Starts MPI unless somebody has.
  MpiError (*init)(MpiFacts& facts);
  // Ends MPI if init() started it.  MPI starts once in a process.
  MpiError (*finalize)();
  // All ranks call it; waits for them.
  MpiError (*duplicate_world)(MpiHandle& comm);
  // All of `members` (ranks of `world`) call it; waits for them.
  MpiError (*create_group)(MpiHandle world, std::span<const int> members, int tag, MpiHandle& comm);
  MpiError (*free_comm)(MpiHandle& comm);
  MpiError (*start)(const MpiCall& call, MpiHandle& request);
  MpiError (*test)(MpiHandle& request, bool& done);
};

using FindMpiPlugin = const MpiPlugin* (*)();
inline constexpr const char* kMpiPluginSymbol = "furrow_mpi_plugin";
inline constexpr const char* kMpiPluginLibrary = "libfurrow_mpi.so";

}  // namespace furrow::comm

extern "C" const furrow::comm::MpiPlugin* furrow_mpi_plugin();
