#include "furrow/comm/mpi/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "furrow/comm/mpi/exchange_common.h"

namespace furrow::comm {
namespace {

struct Block {
  Envelope envelope;
  std::byte terms[448];
};
static_assert(sizeof(Block) == 512);

}  // namespace

bool mpi_adds(const Collective& c, bool canonical) {
  switch (c.dtype) {
    case DType::kI64:
    case DType::kI32:
      return true;
    case DType::kF64:
    case DType::kF32:
      return order_matters(c) && !canonical;
    default:
      return false;
  }
}

std::string MpiGroupWires::describe(int rank) const {
  return comm::describe(communicator.roster(), spec.members[static_cast<size_t>(rank)]);
}

MpiExchange::MpiExchange(MpiGroupWires& group, const Collective& c, const Envelope& envelope,
                         int64_t deadline_ns)
    : group_(group),
      c_(c),
      envelope_(envelope),
      deadline_ns_(deadline_ns),
      n_(group.size()),
      rank_(group.rank()),
      element_(dtype_size(c.dtype)),
      mpi_adds_(mpi_adds(c, group.spec.canonical)) {}

void MpiExchange::run(std::deque<MpiSend>& sends) {
  if (c_.kind == CollectiveKind::kSend) return send(sends);
  if (c_.kind == CollectiveKind::kRecv) return recv();
  if (n_ == 1) return copy_terms(c_.in, c_.out);
  if (group_.comm == 0) meet();
  gather_blocks();
  if (c_.kind == CollectiveKind::kAllToAll) return all_to_all();
  if (most_own_bytes() <= sizeof(Block::terms)) return finish_small();
  switch (c_.kind) {
    case CollectiveKind::kAllReduce:
      return all_reduce();
    case CollectiveKind::kReduce:
      return reduce();
    case CollectiveKind::kReduceScatter:
      return reduce_scatter();
    case CollectiveKind::kAllGather:
      return all_gather();
    default:
      return broadcast();
  }
}

// ---- slices ----

MpiExchange::Slices MpiExchange::slices(const std::vector<int64_t>& counts, size_t bytes) const {
  const auto all = static_cast<int64_t>(bytes / element_);
  refuse_many(all);
  return Slices::of(counts, all, n_);
}

void MpiExchange::refuse_many(int64_t elements) const {
  if (elements <= INT_MAX) return;
  throw Error(
      ErrorCode::kUnimplemented,
      fmt::format(
          "{} elements in one operation, MPI counts to {}: use several, or set [comm] backend = \"native\"",
          elements, INT_MAX));
}

// ---- the round that every collective begins with ----

// MPI_Comm_create_group waits and cannot be stopped, so it is called when all members are known to stand
// before it, and in a process by one group at a time, since none else can call MPI meanwhile.
void MpiExchange::meet() {
  const int tag = group_.wires.tag(group_.spec.channel, MpiWires::Use::kMeeting);
  stand_together(tag);
  make_in_turn(tag);
}

void MpiExchange::stand_together(int tag) {
  std::vector<MpiHandle> sent, received;
  MpiCall call{.comm = group_.wires.world(), .tag = tag};
  for (const int member : group_.spec.members) {
    call.peer = member;
    call.op = MpiOp::kRecv;
    received.push_back(group_.wires.start(call));
    call.op = MpiOp::kSend;
    sent.push_back(group_.wires.start(call));
  }
  for (int r = 0; r < n_; ++r) {
    group_.wires.wait(received[static_cast<size_t>(r)], deadline_ns_, group_.describe(r));
    group_.wires.wait(sent[static_cast<size_t>(r)], deadline_ns_, group_.describe(r));
  }
}

// An empty message to or from a member of the world.
void MpiExchange::nothing(MpiOp op, int member, int tag) {
  const MpiCall call{.op = op, .comm = group_.wires.world(), .peer = member, .tag = tag};
  group_.wires.wait(group_.wires.start(call), deadline_ns_, describe(group_.communicator.roster(), member));
}

// The turns of the members' processes are taken from the lowest rank to the highest, in every group: so no
// two groups wait for what the other one has.
void MpiExchange::make_in_turn(int tag) {
  std::vector<int> order = group_.spec.members;
  std::sort(order.begin(), order.end());
  const int self = group_.spec.members[static_cast<size_t>(rank_)], last = order.back();
  const auto place = static_cast<size_t>(std::find(order.begin(), order.end(), self) - order.begin());
  if (place > 0) nothing(MpiOp::kRecv, order[place - 1], tag);
  const MpiTurn turn(group_.wires, deadline_ns_, "another group that this process makes");
  if (self != last) {
    nothing(MpiOp::kSend, order[place + 1], tag);
    nothing(MpiOp::kRecv, last, tag);
  } else {
    for (size_t i = 0; i + 1 < order.size(); ++i) nothing(MpiOp::kSend, order[i], tag);
  }
  group_.comm = group_.wires.create_group(group_.spec.members, tag);
}

// The most that one rank brings; the same on all of them.
size_t MpiExchange::most_own_bytes() const {
  if (c_.kind == CollectiveKind::kAllGather) {
    if (c_.counts.empty()) return c_.out.size() / static_cast<size_t>(n_);
    return static_cast<size_t>(*std::max_element(c_.counts.begin(), c_.counts.end())) * element_;
  }
  return c_.kind == CollectiveKind::kBroadcast ? c_.out.size() : c_.in.size();
}

std::span<const std::byte> MpiExchange::own_terms() const {
  const bool small = c_.kind != CollectiveKind::kAllToAll && most_own_bytes() <= sizeof(Block::terms);
  const bool brings = c_.kind != CollectiveKind::kBroadcast || rank_ == c_.root_or_peer;
  return small && brings ? c_.in : std::span<const std::byte>{};
}

void MpiExchange::gather_blocks() {
  const size_t bytes = sizeof(Block) * static_cast<size_t>(n_);
  const std::span<std::byte> staged = group_.staging.of(bytes + sizeof(Block));
  const std::span<std::byte> all = staged.first(bytes), mine = staged.subspan(bytes);
  std::memcpy(mine.data(), &envelope_, sizeof(envelope_));
  copy_terms(own_terms(), mine.subspan(offsetof(Block, terms)));
  MpiCall call{.op = MpiOp::kAllGather, .dtype = DType::kU8, .in = mine.data(), .out = all.data()};
  call.send_count = sizeof(Block);
  collective(call);
  blocks_ = all;
  for (int r = 0; r < n_; ++r) {
    Envelope theirs;
    std::memcpy(&theirs, all.data() + sizeof(Block) * static_cast<size_t>(r), sizeof(theirs));
    if (theirs == envelope_) continue;
    const auto world = [&](int rank) { return group_.spec.members[static_cast<size_t>(rank)]; };
    throw mismatch_error(world(rank_), envelope_, world(r), theirs);
  }
  moved_.overhead_sent += static_cast<int64_t>(sizeof(Block)) * (n_ - 1);
  moved_.overhead_received += static_cast<int64_t>(sizeof(Block)) * (n_ - 1);
}

void MpiExchange::finish_small() {
  std::vector<const std::byte*> terms;
  for (int r = 0; r < n_; ++r) {
    terms.push_back(blocks_.data() + sizeof(Block) * static_cast<size_t>(r) + offsetof(Block, terms));
  }
  std::byte* const out[] = {c_.out.data()};
  switch (c_.kind) {
    case CollectiveKind::kReduceScatter: {
      const auto own =
          static_cast<size_t>(slices(c_.counts, c_.in.size()).offsets[static_cast<size_t>(rank_)]);
      for (const std::byte*& t : terms) t += own * element_;
      [[fallthrough]];
    }
    case CollectiveKind::kAllReduce:
      return reduce_tree(reduce_kind(), elements(c_.out), terms, out);
    case CollectiveKind::kReduce:
      if (rank_ == c_.root_or_peer) reduce_tree(reduce_kind(), elements(c_.out), terms, out);
      return;
    case CollectiveKind::kAllGather: {
      const Slices s = slices(c_.counts, c_.out.size());
      for (size_t r = 0; r < terms.size(); ++r) {
        const auto begin = static_cast<size_t>(s.offsets[r]) * element_;
        const auto bytes = static_cast<size_t>(s.counts[r]) * element_;
        copy_terms({terms[r], bytes}, c_.out.subspan(begin, bytes));
      }
      return;
    }
    case CollectiveKind::kBroadcast:
      return copy_terms({terms[static_cast<size_t>(c_.root_or_peer)], c_.out.size()}, c_.out);
    default:
      return;
  }
}

void MpiExchange::collective(MpiCall call) {
  call.comm = group_.comm;
  group_.wires.wait(group_.wires.start(call), deadline_ns_,
                    fmt::format("the ranks of group {}", group_.spec.name));
}

}  // namespace furrow::comm
