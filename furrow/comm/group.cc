#include "furrow/comm/group.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/comm/group_state.h"

namespace furrow::comm {
namespace {

// Throws for one call, naming it.
struct Checker {
  const GroupSpec& group;
  const Collective& c;
  size_t size() const { return group.members.size(); }

  [[noreturn]] void refuse(const std::string& why) const {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}{}{} in group {} of {}: {}", to_string(c.kind), c.label.empty() ? "" : " ",
                            c.label, group.name, size(), why));
  }

  void spans() const {
    const size_t element = dtype_size(c.dtype);
    const size_t all = c.in.size() | c.out.size() | reinterpret_cast<uintptr_t>(c.in.data()) |
                       reinterpret_cast<uintptr_t>(c.out.data());
    if ((all & (element - 1)) != 0) refuse_spans(element);
  }

  void refuse_spans(size_t element) const {
    for (const auto& [name, data, bytes] :
         {std::tuple("in", static_cast<const void*>(c.in.data()), c.in.size()),
          std::tuple("out", static_cast<const void*>(c.out.data()), c.out.size())}) {
      if ((bytes & (element - 1)) != 0 || (reinterpret_cast<uintptr_t>(data) & (element - 1)) != 0) {
        refuse(fmt::format("`{}` is no array of {}: {} bytes at an address that is {} modulo {}", name,
                           to_string(c.dtype), bytes, reinterpret_cast<uintptr_t>(data) % element, element));
      }
    }
  }

  void root(const char* what) const {
    if (c.root_or_peer < 0 || c.root_or_peer >= static_cast<int>(size())) {
      refuse(fmt::format("its {} is {}, which is no rank of the group", what, c.root_or_peer));
    }
  }

  // The slices add up to `all`; returns the own one's elements.
  int64_t slices(const std::vector<int64_t>& counts, size_t all_bytes, const char* what) const {
    const auto all = static_cast<int64_t>(all_bytes / dtype_size(c.dtype));
    const auto ranks = static_cast<int64_t>(size());
    if (counts.empty()) {
      if (all % ranks != 0)
        refuse(fmt::format("{} elements are no {} equal slices: give {}", all, ranks, what));
      return all / ranks;
    }
    if (counts.size() != size()) refuse(fmt::format("{} has {} numbers", what, counts.size()));
    if (std::any_of(counts.begin(), counts.end(), [](int64_t n) { return n < 0; })) {
      refuse(fmt::format("{} has a negative number", what));
    }
    const int64_t sum = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    if (sum != all) refuse(fmt::format("{} adds up to {}, the buffer has {} elements", what, sum, all));
    return counts[static_cast<size_t>(group.rank)];
  }

  void same_size() const {
    if (c.in.size() != c.out.size()) {
      refuse(fmt::format("`in` has {} bytes, `out` {}: they are as large", c.in.size(), c.out.size()));
    }
  }

  void own_slice(int64_t elements, size_t bytes, const char* what) const {
    if (static_cast<size_t>(elements) * dtype_size(c.dtype) != bytes) {
      refuse(fmt::format("`{}` has {} bytes, the own slice {} elements", what, bytes, elements));
    }
  }

  size_t slice_begin() const {
    const size_t all = std::max(c.in.size(), c.out.size());
    if (c.counts.empty()) return all / size() * static_cast<size_t>(group.rank);
    return static_cast<size_t>(std::accumulate(c.counts.begin(), c.counts.begin() + group.rank, int64_t{0})) *
           dtype_size(c.dtype);
  }

  // Disjoint, or `small` exactly `offset` into the other.
  void overlap(std::span<const std::byte> all, std::span<const std::byte> small, size_t offset) const {
    const std::less<> before;
    const bool disjoint = all.empty() || small.empty() || !before(small.data(), all.data() + all.size()) ||
                          !before(all.data(), small.data() + small.size());
    if (!disjoint && small.data() != all.data() + offset)
      refuse("`in` and `out` overlap and are not in place");
  }
};

void check_counts(const Checker& checker, const Collective& c) {
  const std::span<const std::byte> out = c.out;
  switch (c.kind) {
    case CollectiveKind::kReduceScatter:
      checker.own_slice(checker.slices(c.counts, c.in.size(), "counts"), c.out.size(), "out");
      return checker.overlap(c.in, out, checker.slice_begin());
    case CollectiveKind::kAllGather:
      checker.own_slice(checker.slices(c.counts, c.out.size(), "counts"), c.in.size(), "in");
      return checker.overlap(out, c.in, checker.slice_begin());
    case CollectiveKind::kAllToAll:
      checker.slices(c.send_counts, c.in.size(), "send_counts");
      checker.slices(c.recv_counts, c.out.size(), "recv_counts");
      if (!c.in.empty() && c.in.data() == out.data()) checker.refuse("it cannot be done in place");
      return checker.overlap(out, c.in, 0);
    case CollectiveKind::kAllReduce:
      checker.same_size();
      return checker.overlap(out, c.in, 0);
    default:
      return;
  }
}

void check_root(const Checker& checker, const Collective& c) {
  const bool at_root = c.root_or_peer == checker.group.rank;
  switch (c.kind) {
    case CollectiveKind::kBroadcast:
    case CollectiveKind::kReduce:
      checker.root("root");
      if (at_root) {
        checker.same_size();
        checker.overlap(c.out, c.in, 0);
      }
      return;
    case CollectiveKind::kSend:
    case CollectiveKind::kRecv:
      checker.root("peer");
      if (at_root) checker.refuse("the peer is this rank itself");
      return;
    default:
      return;
  }
}

}  // namespace

void check(const GroupSpec& group, const Collective& c) {
  const Checker checker{group, c};
  checker.spans();
  const bool reduces = c.kind == CollectiveKind::kAllReduce || c.kind == CollectiveKind::kReduceScatter ||
                       c.kind == CollectiveKind::kReduce;
  if (reduces && !can_reduce(c.dtype))
    checker.refuse(fmt::format("{} cannot be reduced", to_string(c.dtype)));
  check_counts(checker, c);
  check_root(checker, c);
}

int Group::rank() const { return state_->spec.rank; }
int Group::size() const { return static_cast<int>(state_->spec.members.size()); }
const std::vector<int>& Group::members() const { return state_->spec.members; }
std::string_view Group::name() const { return state_->spec.name; }

Work Group::start(Collective c) {
  std::vector<Collective> batch;
  batch.push_back(std::move(c));
  return start(std::move(batch));
}

Work Group::start(std::vector<Collective> coalesced) {
  for (const Collective& c : coalesced) check(state_->spec, c);
  return state_->backend->start(std::move(coalesced), state_->numbers);
}

void Group::run(const Collective& c) {
  check(state_->spec, c);
  state_->backend->run(c, state_->numbers);
}

void Group::barrier(std::string label) { run({.kind = CollectiveKind::kBarrier, .label = std::move(label)}); }

Collective Group::make(CollectiveKind kind, DType dtype, std::span<const std::byte> in,
                       std::span<std::byte> out, Reduction reduction, int root_or_peer, std::string label) {
  Collective c;
  c.kind = kind;
  c.dtype = dtype;
  c.reduction = reduction;
  c.in = in;
  c.out = out;
  c.root_or_peer = root_or_peer;
  c.label = std::move(label);
  return c;
}

}  // namespace furrow::comm
