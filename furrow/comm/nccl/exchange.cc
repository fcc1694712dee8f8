#include "furrow/comm/nccl/exchange.h"

#include <fmt/format.h>

#include <algorithm>

#include "furrow/base/error.h"

namespace furrow::comm {
namespace {

int nccl_type(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return kNcclFloat64;
    case DType::kF32:
      return kNcclFloat32;
    case DType::kF16:
      return kNcclFloat16;
    case DType::kBF16:
      return kNcclBfloat16;
    case DType::kI64:
      return kNcclInt64;
    case DType::kI32:
      return kNcclInt32;
    default:
      return kNcclUint8;
  }
}

int nccl_op(Reduction reduction) {
  switch (reduction) {
    case Reduction::kAvg:
      return kNcclAvg;
    case Reduction::kMin:
      return kNcclMin;
    case Reduction::kMax:
      return kNcclMax;
    case Reduction::kProd:
      return kNcclProd;
    default:
      return kNcclSum;
  }
}

// What each member tells each other before an operation.
struct Block {
  int64_t elements = 0;  // all_to_all: sent to that member
  NcclUniqueId id = {};  // of the first member, before the group's first collective
};

}  // namespace

bool nccl_adds(const Collective& c, bool canonical, int size) {
  switch (c.dtype) {
    case DType::kI64:
    case DType::kI32:
    case DType::kU8:
      return c.reduction != Reduction::kAvg;
    case DType::kF64:
    case DType::kF32:
      if (!order_matters(c)) return false;
      return !canonical || (size == 2 && c.reduction != Reduction::kAvg);
    default:
      return order_matters(c) && !canonical;
  }
}

NcclExchange::NcclExchange(NcclGroupWires& group, const Collective& c, const Envelope& envelope,
                           int64_t deadline_ns)
    : group_(group),
      c_(c),
      envelope_(envelope),
      deadline_ns_(deadline_ns),
      n_(group.size()),
      rank_(group.rank()),
      element_(dtype_size(c.dtype)),
      nccl_adds_(nccl_adds(c, group.spec.canonical, n_)) {}

void NcclExchange::run() {
  if (n_ == 1) {
    group_.wires.copy(c_.out.data(), c_.in.data(), c_.in.size());
    return wait();
  }
  meet();
  switch (c_.kind) {
    case CollectiveKind::kAllReduce:
      return all_reduce();
    case CollectiveKind::kReduce:
      return reduce();
    case CollectiveKind::kReduceScatter:
      return reduce_scatter();
    case CollectiveKind::kAllGather:
      return all_gather();
    case CollectiveKind::kAllToAll:
      return all_to_all();
    default:
      return broadcast();
  }
}

// The envelopes of the messages say what each runs: transports compare them.
void NcclExchange::meet() {
  std::vector<Block> mine(static_cast<size_t>(n_)), theirs(mine.size());
  NcclUniqueId id = {};
  if (group_.comm == nullptr && rank_ == 0) check(nccl().get_unique_id(&id), "ncclGetUniqueId");
  Slices send, receive;
  if (c_.kind == CollectiveKind::kAllToAll) {
    send = slices(c_.send_counts, c_.in.size());
    receive = slices(c_.recv_counts, c_.out.size());
  }
  std::vector<std::pair<int, Ticket>> tickets;
  for (int r = 0; r < n_; ++r) {
    const auto i = static_cast<size_t>(r);
    if (r == rank_) continue;
    mine[i] = {send.counts.empty() ? 0 : send.counts[i], id};
    tickets.emplace_back(r, group_.route(r).post_recv(group_.world_rank(r), envelope_,
                                                      std::as_writable_bytes(std::span(&theirs[i], 1))));
    tickets.emplace_back(
        r, group_.route(r).post_send(group_.world_rank(r), envelope_, std::as_bytes(std::span(&mine[i], 1))));
  }
  for (const auto& [r, ticket] : tickets) group_.route(r).wait(ticket, deadline_ns_);
  if (group_.comm == nullptr) {  // before anything that one rank alone can refuse
    group_.comm = group_.wires.make_comm({rank_ == 0 ? id : theirs[0].id, n_, rank_}, deadline_ns_);
  }
  for (int r = 0; r < n_ && !receive.counts.empty(); ++r) {
    const auto i = static_cast<size_t>(r);
    if (r == rank_ || theirs[i].elements == receive.counts[i]) continue;
    throw Error(ErrorCode::kFailedPrecondition,
                fmt::format("{} sends {} elements, this rank expects {}",
                            describe(group_.communicator.roster(), group_.world_rank(r)), theirs[i].elements,
                            receive.counts[i]));
  }
}

void NcclExchange::wait() { group_.wires.wait(deadline_ns_, group_.whom()); }

// ---- slices ----

NcclExchange::Slices NcclExchange::slices(const std::vector<int64_t>& counts, size_t bytes) const {
  const auto all = static_cast<int64_t>(bytes / element_);
  return Slices::of(counts, all, n_);
}

// ---- transfers ----

void NcclExchange::transfer(const std::byte* in, const Slices& send, std::byte* out, const Slices& receive) {
  NcclCalls calls;
  for (int r = 0; r < n_; ++r) {
    const auto i = static_cast<size_t>(r);
    const size_t sent = static_cast<size_t>(send.counts[i]) * element_;
    const size_t received = static_cast<size_t>(receive.counts[i]) * element_;
    if (r == rank_) continue;
    if (sent > 0) {
      check(nccl().send(in + static_cast<size_t>(send.offsets[i]) * element_, sent, kNcclUint8, r,
                        group_.comm, stream()),
            "ncclSend");
    }
    if (received > 0) {
      check(nccl().recv(out + static_cast<size_t>(receive.offsets[i]) * element_, received, kNcclUint8, r,
                        group_.comm, stream()),
            "ncclRecv");
    }
  }
  check(calls.end(), "ncclGroupEnd");
}

void NcclExchange::all_gather() {
  const Slices s = slices(c_.counts, c_.out.size());
  if (c_.counts.empty()) {
    check(nccl().all_gather(c_.in.data(), c_.out.data(), c_.in.size(), kNcclUint8, group_.comm, stream()),
          "ncclAllGather");
    return wait();
  }
  const auto begin = static_cast<size_t>(s.offsets[static_cast<size_t>(rank_)]) * element_;
  group_.wires.copy(c_.out.data() + begin, c_.in.data(), c_.in.size());
  gather_in_place(c_.out.data(), s);
  wait();
}

void NcclExchange::gather_in_place(std::byte* out, const Slices& s) {
  const auto self = static_cast<size_t>(rank_);
  const Slices own{std::vector<int64_t>(s.counts.size(), s.counts[self]),
                   std::vector<int64_t>(s.counts.size(), s.offsets[self])};
  transfer(out, own, out, s);
}

void NcclExchange::all_to_all() {
  const Slices send = slices(c_.send_counts, c_.in.size()), receive = slices(c_.recv_counts, c_.out.size());
  const auto self = static_cast<size_t>(rank_);
  group_.wires.copy(c_.out.data() + static_cast<size_t>(receive.offsets[self]) * element_,
                    c_.in.data() + static_cast<size_t>(send.offsets[self]) * element_,
                    static_cast<size_t>(send.counts[self]) * element_);
  transfer(c_.in.data(), send, c_.out.data(), receive);
  wait();
}

void NcclExchange::broadcast() {
  const void* from = rank_ == c_.root_or_peer ? c_.in.data() : c_.out.data();
  check(nccl().broadcast(from, c_.out.data(), c_.out.size(), kNcclUint8, c_.root_or_peer, group_.comm,
                         stream()),
        "ncclBroadcast");
  wait();
}

// ---- reductions by NCCL ----

void NcclExchange::all_reduce() {
  if (!nccl_adds_) return all_reduce_by_tree();
  check(nccl().all_reduce(c_.in.data(), c_.out.data(), static_cast<size_t>(elements(c_.in)),
                          nccl_type(c_.dtype), nccl_op(c_.reduction), group_.comm, stream()),
        "ncclAllReduce");
  wait();
}

void NcclExchange::reduce() {
  if (!nccl_adds_) return reduce_by_tree();
  check(nccl().reduce(c_.in.data(), c_.out.data(), static_cast<size_t>(elements(c_.in)), nccl_type(c_.dtype),
                      nccl_op(c_.reduction), c_.root_or_peer, group_.comm, stream()),
        "ncclReduce");
  wait();
}

// NCCL knows equal slices only: others are as many reductions, in one launch.
void NcclExchange::reduce_scatter() {
  if (!nccl_adds_) return reduce_scatter_by_tree();
  const Slices s = slices(c_.counts, c_.in.size());
  const int type = nccl_type(c_.dtype), op = nccl_op(c_.reduction);
  if (c_.counts.empty()) {
    check(nccl().reduce_scatter(c_.in.data(), c_.out.data(), static_cast<size_t>(s.counts[0]), type, op,
                                group_.comm, stream()),
          "ncclReduceScatter");
    return wait();
  }
  NcclCalls calls;
  for (int r = 0; r < n_; ++r) {
    const auto i = static_cast<size_t>(r);
    if (s.counts[i] == 0) continue;
    check(nccl().reduce(c_.in.data() + static_cast<size_t>(s.offsets[i]) * element_, c_.out.data(),
                        static_cast<size_t>(s.counts[i]), type, op, r, group_.comm, stream()),
          "ncclReduce");
  }
  check(calls.end(), "ncclGroupEnd");
  wait();
}

}  // namespace furrow::comm
