// What a group can do, as plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/array.h"

namespace furrow::comm {

enum class CollectiveKind : uint8_t {
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kBroadcast,
  kReduce,
  kAllToAll,
  kSend,
  kRecv,
  kBarrier,
};
inline constexpr int kCollectiveKinds = 9;
std::string_view to_string(CollectiveKind kind);              // "all_reduce"
CollectiveKind parse_collective_kind(std::string_view name);  // Error{invalid_argument} lists the known ones

enum class Reduction : uint8_t { kSum, kAvg, kMin, kMax, kProd };
inline constexpr int kReductions = 5;
std::string_view to_string(Reduction reduction);  // "sum"

// Data types that can be reduced: f64, f32, f16, bf16, i64, i32, u8.  Every data type can be moved.
bool can_reduce(DType dtype);

// One operation as one rank of a group of n sees it.  "Slices" of a buffer lie one after the other in rank
// order, counts[r] elements for rank r.  Every rank gives the same kind, dtype, reduction, counts, root and
// label.
//
//   kind            in                        out                       in place
//   all_reduce      e elements                e elements                out is in
//   reduce_scatter  all slices                own slice                 out is the own slice of in; the rest
//   of in is kept all_gather      own slice                 all slices                in is the own slice of
//   out broadcast       e elements, root only     e elements, on every rank root: out is in reduce          e
//   elements                e elements, root only     root: out is in all_to_all      send_counts[r] to rank
//   r  recv_counts[r] from r     no send            e elements (root_or_peer: the receiver) recv e elements
//   (root_or_peer: the sender) barrier
//
// Where it is not in place, in and out do not overlap.  An element count may be 0, of one rank or of all.
//
// Order of the terms.  Sums, products and averages of floating types by a canonical algorithm (the only ones
// that a canonical group uses) run over the ranks of the group in the canonical binary tree: tree(b, e) is
// rank b's term if e - b == 1, else tree(b, m) + tree(m, e) with m = b + the largest power of two below e -
// b.  A slice of 0 elements has no terms.  f16 and bf16: each addition is made in float32 and rounded to the
// type, to nearest even.  avg: the sum, then one multiplication by 1/n rounded to the type (f16 and bf16: in
// float32, then rounded); of integers one division, rounding towards zero.  min and max of floating types: a
// NaN among the terms gives a NaN.  Integers wrap.
struct Collective {
  CollectiveKind kind = CollectiveKind::kBarrier;
  DType dtype = DType::kF32;
  Reduction reduction = Reduction::kSum;
  std::span<const std::byte> in = {};
  std::span<std::byte> out = {};
  std::vector<int64_t> counts = {};                         // reduce_scatter, all_gather; empty: equal slices
  std::vector<int64_t> send_counts = {}, recv_counts = {};  // all_to_all; empty: equal slices
  int root_or_peer = -1;                                    // rank of the group
  std::string label = {};  // "reduce_grads h.3": in errors, progress and ledger
  int64_t timeout_ms = 0;  // 0: the communicator's
};

bool is_reduction(CollectiveKind kind);  // all_reduce, reduce_scatter, reduce

// Does the order of the terms show in the bits?  Of floating types, where they are added or multiplied.
bool order_matters(const Collective& c);

// The least that must cross to (all_reduce, reduce_scatter, all_gather, broadcast, all_to_all, recv) or from
// (reduce, send) this rank, in bytes.  2(n-1)/n of the size for all_reduce, rounded up; (n-1) own slices for
// reduce_scatter; all slices but the own for all_gather.  Sums over ranks are the bounds of Patarasuk and
// Yuan, "Bandwidth optimal all-reduce algorithms for clusters of workstations", 2009.
int64_t bound_bytes(const Collective& c, int rank, int size);

}  // namespace furrow::comm
