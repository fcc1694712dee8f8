// What the operations of collective.h mean, element by element, for the conformance test.  Shares no code
// with the algorithms: scalars and recursion.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "furrow/comm/collective.h"

namespace furrow::comm::reference {

using Bytes = std::vector<std::byte>;

// In which order the terms of an element are added.
enum class Order : uint8_t { kTree, kRing, kPairs, kHosts, kHostsRing };
Order order_of(const std::string& algorithm);

bool reduces(CollectiveKind kind);
// Whether the result depends on the order of its terms.
bool order_matters(CollectiveKind kind, DType dtype, Reduction reduction);

// Whether an algorithm of algorithm_rows() can carry out an operation; `host` of each rank.
bool can_run(const std::string& algorithm, CollectiveKind kind, const std::vector<int>& host);
// Which one does where `algorithm` is asked for: it, or "direct" where it cannot or where terms must be added
// in the canonical tree and it adds in another order.
std::string runs_by(const std::string& algorithm, CollectiveKind kind, bool in_tree_order,
                    const std::vector<int>& host);

struct Problem {
  CollectiveKind kind = CollectiveKind::kAllReduce;
  DType dtype = DType::kF32;
  Reduction reduction = Reduction::kSum;
  Order order = Order::kTree;
  std::vector<Bytes> in;                     // by rank
  std::vector<int64_t> counts;               // of all slices, also where the call leaves them out
  std::vector<std::vector<int64_t>> matrix;  // all_to_all: elements from i to j
  int root = 0;
  std::vector<int> host;  // by rank
};

// What every rank's `out` holds.
std::vector<Bytes> outputs(const Problem& p);

// Terms whose sum depends on their order, of magnitudes near one; for min and max NaNs and infinities among
// them.
Bytes make_input(DType dtype, Reduction reduction, int64_t elements, uint64_t seed);

// Equal bits; of a NaN only that it is one.
bool same(DType dtype, const std::byte* a, const std::byte* b, int64_t elements);

}  // namespace furrow::comm::reference
