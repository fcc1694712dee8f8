// The one table of algorithms, and the choice among them.
#include <algorithm>
#include <tuple>

#include "furrow/base/names.h"
#include "furrow/comm/algorithm.h"
#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

using enum CollectiveKind;
constexpr Kinds kSlices = {kAllReduce, kReduceScatter, kAllGather};
constexpr std::string_view kHosts = "two hosts or more that hold several ranks each, all as many";

constexpr AlgorithmRow kAlgorithms[] = {
    {"direct", "everybody exchanges slices with everybody", Kinds::all(), "", &any_shape, &always_canonical,
     &run_direct},
    {"flat",
     "everybody sends everything to everybody, in one round",
     {kAllReduce},
     "",
     &any_shape,
     &always_canonical,
     &run_flat},
    {"ring", "to the next rank only", kSlices, "", &any_shape, &never_canonical, &run_ring},
    {"doubling", "recursive halving and doubling", kSlices, "", &any_shape, &doubling_is_canonical,
     &run_doubling},
    {"tree",
     "up and down a binary tree, whole buffers",
     {kAllReduce, kReduce, kBroadcast, kBarrier},
     "",
     &any_shape,
     &always_canonical,
     &run_tree},
    {"hierarchical", "direct inside each host, then between hosts", kSlices, kHosts, &several_on_each_host,
     &hierarchical_is_canonical, &run_hierarchical},
    {"hierarchical_ring", "direct inside each host, a ring between hosts", kSlices, kHosts,
     &several_on_each_host, &never_canonical, &run_hierarchical_ring},
    {"hierarchical_tree",
     "inside each host, then a tree between hosts",
     {kAllReduce, kReduce, kBroadcast},
     kHosts,
     &several_on_each_host,
     &hierarchical_is_canonical,
     &run_hierarchical_tree},
};

}  // namespace

bool AlgorithmRow::fits(const Call& call) const { return kinds.has(call.c.kind) && shape(call); }

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
  constexpr std::string_view kNames[] = {"memory", "mixed", "messages", "loopback"};
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

namespace {

// Up to how many bytes one round with everybody is fastest, and up to how many everybody's slices with
// everybody; beyond, as few bytes between hosts as can be.
struct Threshold {
  int ranks;
  int64_t flat, direct;
};
constexpr int kMostRanks = INT32_MAX;
constexpr Threshold kAlike[] = {{2, 4096, INT64_MAX}, {8, 2048, INT64_MAX}, {kMostRanks, 512, INT64_MAX}};
// As measured on hosts that are network namespaces (2 of 2 and of 4 ranks, 3 of 2), at 200 Mbit/s, 1 Gbit/s
// and unlimited: with 4 ranks a host the messages that direct sends cost more than any bytes.
constexpr Threshold kMixedSum[] = {{4, 2048, 16 << 10}, {6, 4096, 4096}, {kMostRanks, 512, 512}};
constexpr Threshold kMixedSlices[] = {{4, 0, 64 << 10}, {kMostRanks, 0, 2048}};

void set_thresholds(AlgorithmTable& table, CollectiveKind kind, Wires wires,
                    std::span<const Threshold> thresholds) {
  const int flat = algorithm_index("flat"), direct = algorithm_index("direct"),
            hierarchical = algorithm_index("hierarchical");
  for (const Threshold& t : thresholds) {
    std::vector<AlgorithmTable::Entry> entries;
    if (t.flat > 0) entries.push_back({kind, wires, t.ranks, t.flat, flat});
    if (t.direct > t.flat && t.direct < INT64_MAX)
      entries.push_back({kind, wires, t.ranks, t.direct, direct});
    if (t.direct < INT64_MAX) entries.push_back({kind, wires, t.ranks, INT64_MAX, hierarchical});
    table.set(kind, wires, t.ranks, std::move(entries));
  }
}

}  // namespace

AlgorithmTable AlgorithmTable::built_in() {
  AlgorithmTable table;
  set_thresholds(table, CollectiveKind::kAllReduce, Wires::kMemory, kAlike);
  set_thresholds(table, CollectiveKind::kAllReduce, Wires::kMessages, kAlike);
  set_thresholds(table, CollectiveKind::kAllReduce, Wires::kLoopback, kAlike);
  set_thresholds(table, CollectiveKind::kAllReduce, Wires::kMixed, kMixedSum);
  set_thresholds(table, CollectiveKind::kReduceScatter, Wires::kMixed, kMixedSlices);
  set_thresholds(table, CollectiveKind::kAllGather, Wires::kMixed, kMixedSlices);
  return table;
}

}  // namespace furrow::comm
