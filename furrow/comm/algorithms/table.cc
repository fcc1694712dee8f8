// The one table of algorithms, and the choice among them.
#include <algorithm>
#include <tuple>

#include "furrow/base/names.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

constexpr AlgorithmRow kAlgorithms[] = {
    {"direct", "everybody exchanges slices with everybody", &fits_always, &always_canonical, &run_direct},
    {"flat", "everybody sends everything to everybody, in one round", &fits_flat, &always_canonical,
     &run_flat},
    {"ring", "to the next rank only", &fits_ring, &never_canonical, &run_ring},
    {"doubling", "recursive halving and doubling", &fits_doubling, &always_canonical, &run_doubling},
    {"tree", "up and down a binary tree, whole buffers", &fits_tree, &always_canonical, &run_tree},
    {"hierarchical", "direct inside each host, then between hosts", &fits_hierarchical,
     &hierarchical_is_canonical, &run_hierarchical},
    {"hierarchical_ring", "direct inside each host, a ring between hosts", &fits_hierarchical,
     &never_canonical, &run_hierarchical_ring},
};

}  // namespace

std::span<const AlgorithmRow> algorithm_rows() { return kAlgorithms; }

int algorithm_index(std::string_view name) {
  std::vector<std::string> known;
  for (const AlgorithmRow& row : kAlgorithms) {
    if (row.name == name) return static_cast<int>(&row - kAlgorithms);
    known.emplace_back(row.name);
  }
  throw Error(ErrorCode::kInvalidArgument, unknown_name_message("collective algorithm", name, known));
}

std::string_view to_string(Wires wires) {
  constexpr std::string_view kNames[] = {"memory", "mixed", "messages"};
  return kNames[static_cast<size_t>(wires)];
}

int AlgorithmTable::choose(const Call& call, bool canonical) const {
  const auto may = [&](int algorithm) {
    const AlgorithmRow& row = kAlgorithms[algorithm];
    return row.fits(call) && (!canonical || !order_matters(call.c) || row.canonical(call));
  };
  const auto bytes = static_cast<int64_t>(call.payload());
  int ranks = 0;  // of the entries that apply: the smallest number that covers the group
  for (const Entry& e : entries_) {
    if (e.kind != call.c.kind || e.wires != call.wires() || e.ranks < call.size()) continue;
    if (ranks != 0 && e.ranks != ranks) break;
    ranks = e.ranks;
    if (bytes <= e.bytes && may(e.algorithm)) return e.algorithm;
  }
  return 0;
}

void AlgorithmTable::set(CollectiveKind kind, Wires wires, int ranks, std::vector<Entry> entries) {
  std::erase_if(entries_,
                [&](const Entry& e) { return e.kind == kind && e.wires == wires && e.ranks == ranks; });
  entries_.insert(entries_.end(), entries.begin(), entries.end());
  sort();
}

void AlgorithmTable::sort() {
  std::stable_sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return std::tuple(a.kind, a.wires, a.ranks, a.bytes) < std::tuple(b.kind, b.wires, b.ranks, b.bytes);
  });
}

AlgorithmTable AlgorithmTable::built_in() {
  AlgorithmTable table;
  constexpr int kMostRanks = INT32_MAX;
  const int flat = algorithm_index("flat");
  for (const Wires wires : {Wires::kMemory, Wires::kMixed, Wires::kMessages}) {
    const auto entry = [&](int ranks, int64_t bytes, int algorithm) {
      return Entry{CollectiveKind::kAllReduce, wires, ranks, bytes, algorithm};
    };
    table.set(CollectiveKind::kAllReduce, wires, 2, {entry(2, 4096, flat)});
    table.set(CollectiveKind::kAllReduce, wires, 8, {entry(8, 2048, flat)});
    table.set(CollectiveKind::kAllReduce, wires, kMostRanks, {entry(kMostRanks, 512, flat)});
  }
  // Between hosts as few bytes as can be; below this size a second round costs more.
  constexpr int64_t kOneRound = 64 << 10;
  for (const CollectiveKind kind : {CollectiveKind::kReduceScatter, CollectiveKind::kAllGather}) {
    table.set(kind, Wires::kMixed, kMostRanks,
              {{kind, Wires::kMixed, kMostRanks, kOneRound, 0},
               {kind, Wires::kMixed, kMostRanks, INT64_MAX, algorithm_index("hierarchical")}});
  }
  for (const auto& [ranks, bytes] : {std::pair(2, 4096), {8, 2048}, {kMostRanks, 512}}) {
    const auto entry = [&, ranks = ranks](int64_t up_to, int algorithm) {
      return Entry{CollectiveKind::kAllReduce, Wires::kMixed, ranks, up_to, algorithm};
    };
    table.set(CollectiveKind::kAllReduce, Wires::kMixed, ranks,
              {entry(bytes, flat), entry(kOneRound, 0), entry(INT64_MAX, algorithm_index("hierarchical"))});
  }
  return table;
}

}  // namespace furrow::comm
