// Transfers over MPI.
#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "furrow/base/error.h"
#include "furrow/comm/mpi/exchange.h"
#include "furrow/comm/mpi/exchange_common.h"

namespace furrow::comm {

void MpiExchange::all_gather() {
  const Slices s = slices(c_.counts, c_.out.size());
  const auto begin = static_cast<size_t>(s.offsets[static_cast<size_t>(rank_)]) * element_;
  copy_terms(c_.in, c_.out.subspan(begin, c_.in.size()));
  gather_in_place(c_.out, s);
}

void MpiExchange::gather_in_place(std::span<std::byte> out, const Slices& s) {
  MpiCall call{.op = MpiOp::kAllGatherV, .dtype = c_.dtype, .out = out.data()};
  call.recv_counts = s.counts.data(), call.recv_offsets = s.offsets.data();
  collective(call);
  const auto own =
      static_cast<int64_t>(s.counts[static_cast<size_t>(rank_)]) * static_cast<int64_t>(element_);
  moved_.sent += own * (n_ - 1);
  moved_.received += static_cast<int64_t>(out.size()) - own;
}

void MpiExchange::all_to_all() {
  const Slices send = slices(c_.send_counts, c_.in.size()), receive = slices(c_.recv_counts, c_.out.size());
  check_counts(send, receive);
  MpiCall call{.op = MpiOp::kAllToAllV, .dtype = c_.dtype, .in = c_.in.data(), .out = c_.out.data()};
  call.send_counts = send.counts.data(), call.send_offsets = send.offsets.data();
  call.recv_counts = receive.counts.data(), call.recv_offsets = receive.offsets.data();
  collective(call);
  const auto element = static_cast<int64_t>(element_), self = int64_t{rank_};
  moved_.sent += static_cast<int64_t>(c_.in.size()) - send.counts[static_cast<size_t>(self)] * element;
  moved_.received +=
      static_cast<int64_t>(c_.out.size()) - receive.counts[static_cast<size_t>(self)] * element;
}

// MPI takes a message that is shorter than expected for the whole.
void MpiExchange::check_counts(const Slices& sent, const Slices& expected) {
  std::vector<int> ones(static_cast<size_t>(n_), 1), places(static_cast<size_t>(n_));
  std::iota(places.begin(), places.end(), 0);
  std::vector<int> theirs(static_cast<size_t>(n_));
  MpiCall call{.op = MpiOp::kAllToAllV, .dtype = DType::kI32, .in = sent.counts.data(), .out = theirs.data()};
  call.send_counts = call.recv_counts = ones.data();
  call.send_offsets = call.recv_offsets = places.data();
  collective(call);
  moved_.overhead_sent += static_cast<int64_t>(sizeof(int)) * (n_ - 1);
  moved_.overhead_received += static_cast<int64_t>(sizeof(int)) * (n_ - 1);
  for (int r = 0; r < n_; ++r) {
    const auto i = static_cast<size_t>(r);
    if (theirs[i] == expected.counts[i]) continue;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} sends {} elements, this rank expects {}", group_.describe(r), theirs[i],
                            expected.counts[i]));
  }
}

void MpiExchange::broadcast() {
  const bool root = rank_ == c_.root_or_peer;
  if (root) copy_terms(c_.in, c_.out);
  const int64_t all = elements(c_.out);
  for (int64_t begin = 0; begin < all; begin += kMostMpiElements) {
    MpiCall call{.op = MpiOp::kBroadcast, .dtype = c_.dtype};
    call.out = c_.out.data() + static_cast<size_t>(begin) * element_;
    call.recv_count = mpi_count(std::min(kMostMpiElements, all - begin));
    call.peer = c_.root_or_peer;
    collective(call);
  }
  (root ? moved_.sent : moved_.received) += static_cast<int64_t>(c_.out.size());
}

// ---- pairs: an envelope, then the bytes, on the copy of MPI_COMM_WORLD ----

void MpiExchange::send(std::deque<MpiSend>& sends) {
  MpiSend& under_way = sends.emplace_back(MpiSend{envelope_, group_.describe(c_.root_or_peer), {}});
  MpiCall call{
      .op = MpiOp::kSend, .comm = group_.wires.world(), .dtype = DType::kU8, .in = &under_way.envelope};
  call.send_count = sizeof(Envelope);
  call.peer = group_.spec.members[static_cast<size_t>(c_.root_or_peer)];
  call.tag = group_.wires.tag(group_.spec.channel, MpiWires::Use::kMessages);
  under_way.requests.push_back(group_.wires.start(call));
  call.dtype = c_.dtype;
  const int64_t all = elements(c_.in);
  for (int64_t begin = 0; begin < all; begin += kMostMpiElements) {
    call.in = c_.in.data() + static_cast<size_t>(begin) * element_;
    call.send_count = mpi_count(std::min(kMostMpiElements, all - begin));
    under_way.requests.push_back(group_.wires.start(call));
  }
  moved_.sent += static_cast<int64_t>(c_.in.size());
  moved_.overhead_sent += static_cast<int64_t>(sizeof(Envelope));
}

void MpiExchange::recv() {
  const std::string whom = group_.describe(c_.root_or_peer);
  const std::span<std::byte> staged = group_.staging.of(sizeof(Envelope));
  MpiCall call{.op = MpiOp::kRecv, .comm = group_.wires.world(), .dtype = DType::kU8, .out = staged.data()};
  call.recv_count = sizeof(Envelope);
  call.peer = group_.spec.members[static_cast<size_t>(c_.root_or_peer)];
  call.tag = group_.wires.tag(group_.spec.channel, MpiWires::Use::kMessages);
  group_.wires.wait(group_.wires.start(call), deadline_ns_, whom);
  Envelope theirs;
  std::memcpy(&theirs, staged.data(), sizeof(theirs));
  if (!(theirs == envelope_)) {
    throw mismatch_error(group_.communicator.rank(), envelope_, call.peer, theirs);
  }
  call.dtype = c_.dtype;
  const int64_t all = elements(c_.out);
  for (int64_t begin = 0; begin < all; begin += kMostMpiElements) {
    call.out = c_.out.data() + static_cast<size_t>(begin) * element_;
    call.recv_count = mpi_count(std::min(kMostMpiElements, all - begin));
    group_.wires.wait(group_.wires.start(call), deadline_ns_, whom);
  }
  moved_.received += static_cast<int64_t>(c_.out.size());
  moved_.overhead_received += static_cast<int64_t>(sizeof(Envelope));
}

}  // namespace furrow::comm
