// Reductions whose order counts: slices travel over NCCL and are added in the canonical tree.
#include <algorithm>
#include <span>

#include "furrow/comm/nccl/exchange.h"

namespace furrow::comm {
namespace {

constexpr size_t kStagedBytes = 32 << 20;  // of all ranks' slices at a time (plan/workspace.cc counts on it)

int64_t step_of(size_t element, int ranks) {
  return std::max<int64_t>(1, static_cast<int64_t>(kStagedBytes / element) / ranks);
}

// The canonical tree over terms on a device, by additions of two.  Of the terms all but the own one are
// staged, so a sum on its way has the place of one of them.
class DeviceTree {
 public:
  DeviceTree(DeviceReducer& reducer, const ReduceKind& kind, int64_t n)
      : reducer_(reducer), kind_(kind), n_(n) {}

  void run(std::span<const std::byte* const> terms, int own, std::byte* out) {
    terms_ = terms;
    own_ = own;
    const int ranks = static_cast<int>(terms.size()), middle = tree_split(0, ranks);
    const std::byte* left = node(0, middle);
    reducer_.combine(kind_, n_, left, node(middle, ranks), out);
    reducer_.finish(kind_, n_, out);
  }

 private:
  const std::byte* node(int begin, int end) {
    if (end - begin == 1) return terms_[static_cast<size_t>(begin)];
    const int middle = tree_split(begin, end);
    const std::byte *left = node(begin, middle), *right = node(middle, end);
    const bool kept = middle - begin == 1 && begin == own_;
    auto* sum = const_cast<std::byte*>(kept ? right : left);
    reducer_.combine(kind_, n_, left, right, sum);
    return sum;
  }

  DeviceReducer& reducer_;
  const ReduceKind& kind_;
  const int64_t n_;
  std::span<const std::byte* const> terms_;
  int own_ = 0;
};

}  // namespace

void NcclExchange::reduce_terms(std::span<const std::byte* const> terms, size_t bytes, std::byte* out) {
  if (bytes == 0) return;
  DeviceReducer* reducer = group_.wires.reducer();
  if (reducer == nullptr) return reduce_on_host(terms, bytes, out);
  const ReduceKind kind{c_.dtype, c_.reduction, n_};
  group_.wires.to_reducer(deadline_ns_, group_.whom());
  DeviceTree(*reducer, kind, static_cast<int64_t>(bytes / element_)).run(terms, rank_, out);
  group_.wires.from_reducer();
}

void NcclExchange::reduce_on_host(std::span<const std::byte* const> terms, size_t bytes, std::byte* out) {
  wait();  // copies to the host hear of no deadline
  const std::span<std::byte> host = group_.wires.host_staging(bytes * (terms.size() + 1));
  std::vector<const std::byte*> sources;
  for (size_t r = 0; r < terms.size(); ++r) {
    group_.wires.copy_to_host(host.data() + r * bytes, terms[r], bytes);
    sources.push_back(host.data() + r * bytes);
  }
  wait();
  std::byte* const sum[] = {host.data() + terms.size() * bytes};
  reduce_tree({c_.dtype, c_.reduction, n_}, static_cast<int64_t>(bytes / element_), sources, sum);
  group_.wires.copy_to_device(out, sum[0], bytes);
  wait();
}

NcclExchange::Slices NcclExchange::staged(int64_t count) const {
  Slices slices;
  for (int r = 0; r < n_; ++r) slices.push_back((r < rank_ ? r : r - 1) * count, count);
  return slices;
}

std::vector<const std::byte*> NcclExchange::terms(const std::byte* own, size_t bytes) {
  const std::byte* next = group_.wires.device_staging(bytes * static_cast<size_t>(n_ - 1));
  std::vector<const std::byte*> terms;
  for (int r = 0; r < n_; ++r) {
    terms.push_back(r == rank_ ? own : next);
    if (r != rank_) next += bytes;
  }
  return terms;
}

void NcclExchange::reduce_part(const std::byte* in, const Slices& s, std::byte* out) {
  const auto self = static_cast<size_t>(rank_);
  const size_t bytes = static_cast<size_t>(s.counts[self]) * element_;
  std::byte* room = group_.wires.device_staging(bytes * static_cast<size_t>(n_ - 1));
  transfer(in, s, room, staged(s.counts[self]));
  reduce_terms(terms(in + static_cast<size_t>(s.offsets[self]) * element_, bytes), bytes, out);
}

void NcclExchange::all_reduce_by_tree() {
  const int64_t all = elements(c_.in), step = step_of(element_, 1);
  for (int64_t begin = 0; begin < all; begin += step) {
    const Slices s = Slices::shares(std::min(step, all - begin), n_);
    const size_t offset = static_cast<size_t>(begin) * element_;
    std::byte* out = c_.out.data() + offset;
    reduce_part(c_.in.data() + offset, s,
                out + static_cast<size_t>(s.offsets[static_cast<size_t>(rank_)]) * element_);
    gather_in_place(out, s);
  }
  wait();
}

void NcclExchange::reduce_scatter_by_tree() {
  const Slices all = slices(c_.counts, c_.in.size());
  const int64_t largest = *std::max_element(all.counts.begin(), all.counts.end());
  const int64_t step = step_of(element_, n_);
  for (int64_t begin = 0; begin < largest; begin += step) {
    Slices part = all;
    for (size_t r = 0; r < part.counts.size(); ++r) {
      part.counts[r] = std::clamp<int64_t>(all.counts[r] - begin, 0, step);
      part.offsets[r] += std::min(begin, all.counts[r]);
    }
    reduce_part(c_.in.data(), part, c_.out.data() + static_cast<size_t>(begin) * element_);
  }
  wait();
}

void NcclExchange::reduce_by_tree() {
  const bool root = rank_ == c_.root_or_peer;
  const auto ranks = static_cast<size_t>(n_);
  const int64_t all = elements(c_.in), step = step_of(element_, n_);
  for (int64_t begin = 0; begin < all; begin += step) {
    const int64_t part = std::min(step, all - begin);
    const size_t offset = static_cast<size_t>(begin) * element_, bytes = static_cast<size_t>(part) * element_;
    const std::byte* own = c_.in.data() + offset;
    Slices send{std::vector<int64_t>(ranks, 0), std::vector<int64_t>(ranks, 0)}, none = send;
    if (!root) send.counts[static_cast<size_t>(c_.root_or_peer)] = part;
    std::byte* room = root ? group_.wires.device_staging(bytes * (ranks - 1)) : nullptr;
    transfer(own, send, room, root ? staged(part) : none);
    if (root) reduce_terms(terms(own, bytes), bytes, c_.out.data() + offset);
  }
  wait();
}

}  // namespace furrow::comm
