// Reductions over MPI: slices that are added here, or MPI's own.
#include <algorithm>
#include <numeric>

#include "furrow/comm/mpi/exchange.h"
#include "furrow/comm/mpi/exchange_common.h"

namespace furrow::comm {
namespace {

constexpr size_t kStagedBytes = 8 << 20;  // of all ranks' slices at a time

}  // namespace

void MpiExchange::reduce_part(const std::byte* in, const Slices& s, std::byte* out) {
  const auto self = static_cast<size_t>(rank_);
  const int own = s.counts[self];
  Slices send = s, receive;
  send.counts[self] = 0;
  for (int r = 0; r < n_; ++r) {
    receive.counts.push_back(r == rank_ ? 0 : own);
    receive.offsets.push_back(r * own);
  }
  const size_t own_bytes = static_cast<size_t>(own) * element_;
  const std::span<std::byte> staged = group_.staging.of(own_bytes * static_cast<size_t>(n_));
  MpiCall call{.op = MpiOp::kAllToAllV, .dtype = c_.dtype, .in = in, .out = staged.data()};
  call.send_counts = send.counts.data(), call.send_offsets = send.offsets.data();
  call.recv_counts = receive.counts.data(), call.recv_offsets = receive.offsets.data();
  collective(call);
  moved_.received += static_cast<int64_t>(own_bytes) * (n_ - 1);
  moved_.sent +=
      std::accumulate(send.counts.begin(), send.counts.end(), int64_t{0}) * static_cast<int64_t>(element_);
  if (own == 0) return;
  std::vector<const std::byte*> terms;
  for (size_t r = 0; r < static_cast<size_t>(n_); ++r) terms.push_back(staged.data() + own_bytes * r);
  terms[self] = in + static_cast<size_t>(s.offsets[self]) * element_;
  std::byte* const to[] = {out};
  reduce_tree(reduce_kind(), own, terms, to);
}

void MpiExchange::all_reduce() {
  if (!mpi_adds_) {
    const size_t piece = kStagedBytes / element_ * element_;
    for (size_t begin = 0; begin < c_.in.size(); begin += piece) {
      const size_t bytes = std::min(piece, c_.in.size() - begin);
      all_reduce_by_tree(c_.in.subspan(begin, bytes), c_.out.subspan(begin, bytes));
    }
    return;
  }
  copy_terms(c_.in, c_.out);
  const int64_t all = elements(c_.out);
  for (int64_t begin = 0; begin < all; begin += kMostMpiElements) {
    MpiCall call{.op = MpiOp::kAllReduce, .dtype = c_.dtype, .reduction = c_.reduction};
    call.out = c_.out.data() + static_cast<size_t>(begin) * element_;
    call.recv_count = mpi_count(std::min(kMostMpiElements, all - begin));
    collective(call);
  }
  moved_.received += bound_bytes(c_, rank_, n_);
  finish(reduce_kind(), all, c_.out.data());
}

void MpiExchange::all_reduce_by_tree(std::span<const std::byte> in, std::span<std::byte> out) {
  const Slices s = Slices::shares(elements(in), n_);
  reduce_part(in.data(), s,
              out.data() + static_cast<size_t>(s.offsets[static_cast<size_t>(rank_)]) * element_);
  gather_in_place(out, s);
}

void MpiExchange::reduce() {
  if (!mpi_adds_) return reduce_by_tree();
  const bool root = rank_ == c_.root_or_peer;
  if (root) copy_terms(c_.in, c_.out);
  const int64_t all = elements(c_.in);
  for (int64_t begin = 0; begin < all; begin += kMostMpiElements) {
    const size_t offset = static_cast<size_t>(begin) * element_;
    MpiCall call{.op = MpiOp::kReduce, .dtype = c_.dtype, .reduction = c_.reduction};
    call.in = root ? nullptr : c_.in.data() + offset;
    call.out = root ? c_.out.data() + offset : nullptr;
    call.send_count = mpi_count(std::min(kMostMpiElements, all - begin));
    call.peer = c_.root_or_peer;
    collective(call);
  }
  moved_.sent += bound_bytes(c_, rank_, n_);
  if (root) finish(reduce_kind(), all, c_.out.data());
}

void MpiExchange::reduce_by_tree() {
  const bool root = rank_ == c_.root_or_peer;
  const size_t piece = std::max<size_t>(1, kStagedBytes / element_ / static_cast<size_t>(n_)) * element_;
  for (size_t begin = 0; begin < c_.in.size(); begin += piece) {
    const size_t bytes = std::min(piece, c_.in.size() - begin);
    MpiCall call{.op = MpiOp::kGather, .dtype = c_.dtype, .in = root ? nullptr : c_.in.data() + begin};
    std::span<std::byte> staged;
    if (root) staged = group_.staging.of(bytes * static_cast<size_t>(n_));
    call.out = staged.data();
    call.send_count = mpi_count(static_cast<int64_t>(bytes / element_));
    call.peer = c_.root_or_peer;
    collective(call);
    (root ? moved_.received : moved_.sent) += static_cast<int64_t>(bytes) * (root ? n_ - 1 : 1);
    if (!root) continue;
    std::vector<const std::byte*> terms;
    for (size_t r = 0; r < static_cast<size_t>(n_); ++r) terms.push_back(staged.data() + bytes * r);
    terms[static_cast<size_t>(rank_)] = c_.in.data() + begin;
    std::byte* const to[] = {c_.out.data() + begin};
    reduce_tree(reduce_kind(), static_cast<int64_t>(bytes / element_), terms, to);
  }
}

void MpiExchange::reduce_scatter() { mpi_adds_ ? reduce_scatter_by_mpi() : reduce_scatter_by_tree(); }

void MpiExchange::reduce_scatter_by_tree() {
  const Slices all = slices(c_.counts, c_.in.size());
  const int largest = *std::max_element(all.counts.begin(), all.counts.end());
  const int step = mpi_count(std::max<int64_t>(1, static_cast<int64_t>(kStagedBytes / element_) / n_));
  for (int begin = 0; begin < largest; begin += std::min(step, largest - begin)) {
    Slices part = all;
    for (size_t r = 0; r < part.counts.size(); ++r) {
      part.counts[r] = std::clamp(all.counts[r] - begin, 0, step);
      part.offsets[r] += std::min(begin, all.counts[r]);
    }
    reduce_part(c_.in.data(), part, c_.out.data() + static_cast<size_t>(begin) * element_);
  }
}

void MpiExchange::reduce_scatter_by_mpi() {
  const Slices s = slices(c_.counts, c_.in.size());
  // MPI's result may not lie in what it reads, and the rest of `in` is kept.
  const bool inside = c_.out.data() >= c_.in.data() && c_.out.data() < c_.in.data() + c_.in.size();
  const std::span<std::byte> out = inside ? group_.staging.of(c_.out.size()) : c_.out;
  MpiCall call{.op = MpiOp::kReduceScatter, .dtype = c_.dtype, .reduction = c_.reduction};
  call.in = c_.in.data();
  call.out = out.data();
  call.recv_counts = s.counts.data();
  collective(call);
  moved_.received += bound_bytes(c_, rank_, n_);
  copy_terms(out, c_.out);
  finish(reduce_kind(), elements(c_.out), c_.out.data());
}

}  // namespace furrow::comm
