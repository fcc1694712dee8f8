// Reductions whose order counts: slices travel over NCCL and are added on the host.
#include <algorithm>
#include <cstring>

#include "furrow/comm/nccl/exchange.h"

namespace furrow::comm {
namespace {

constexpr size_t kStagedBytes = 32 << 20;  // of all ranks' slices at a time

int64_t step_of(size_t element, int ranks) {
  return std::max<int64_t>(1, static_cast<int64_t>(kStagedBytes / element) / ranks);
}

}  // namespace

void NcclExchange::reduce_on_host(std::span<const std::byte* const> terms, size_t bytes, std::byte* out) {
  if (bytes == 0) return wait();
  const std::byte* staged = group_.wires.device_staging(0);
  const std::span<std::byte> host = group_.wires.host_staging(bytes * (terms.size() + 1));
  std::vector<const std::byte*> sources;
  for (size_t r = 0; r < terms.size(); ++r) {
    group_.wires.copy(host.data() + r * bytes, terms[r] == nullptr ? staged + r * bytes : terms[r], bytes);
    sources.push_back(host.data() + r * bytes);
  }
  wait();
  std::byte* const sum[] = {host.data() + terms.size() * bytes};
  reduce_tree({c_.dtype, c_.reduction, n_}, static_cast<int64_t>(bytes / element_), sources, sum);
  group_.wires.copy(out, sum[0], bytes);
  wait();
}

void NcclExchange::reduce_part(const std::byte* in, const Slices& s, std::byte* out) {
  const auto self = static_cast<size_t>(rank_);
  const int64_t own = s.counts[self];
  const size_t own_bytes = static_cast<size_t>(own) * element_;
  Slices receive;
  for (int r = 0; r < n_; ++r) {
    receive.counts.push_back(own);
    receive.offsets.push_back(r * own);
  }
  std::byte* staged = group_.wires.device_staging(std::max<size_t>(1, own_bytes * static_cast<size_t>(n_)));
  transfer(in, s, staged, receive);
  std::vector<const std::byte*> terms(static_cast<size_t>(n_), nullptr);
  terms[self] = in + static_cast<size_t>(s.offsets[self]) * element_;
  reduce_on_host(terms, own_bytes, out);
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
    wait();
  }
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
}

void NcclExchange::reduce_by_tree() {
  const bool root = rank_ == c_.root_or_peer;
  const auto ranks = static_cast<size_t>(n_);
  const int64_t all = elements(c_.in), step = step_of(element_, n_);
  for (int64_t begin = 0; begin < all; begin += step) {
    const int64_t part = std::min(step, all - begin);
    const size_t offset = static_cast<size_t>(begin) * element_, bytes = static_cast<size_t>(part) * element_;
    Slices send{std::vector<int64_t>(ranks, 0), std::vector<int64_t>(ranks, 0)}, receive = send;
    if (!root) send.counts[static_cast<size_t>(c_.root_or_peer)] = part;
    for (size_t r = 0; root && r < ranks; ++r) {
      receive.counts[r] = part;
      receive.offsets[r] = static_cast<int64_t>(r) * part;
    }
    std::byte* staged = root ? group_.wires.device_staging(bytes * ranks) : nullptr;
    transfer(c_.in.data() + offset, send, staged, receive);
    if (!root) {
      wait();
      continue;
    }
    std::vector<const std::byte*> terms(ranks, nullptr);
    terms[static_cast<size_t>(rank_)] = c_.in.data() + offset;
    reduce_on_host(terms, bytes, c_.out.data() + offset);
  }
}

}  // namespace furrow::comm
