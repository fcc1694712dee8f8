// Up and down a binary tree, whole buffers: few messages for each rank, for small buffers and many ranks.  Up
// is the canonical tree itself; the first member of a node holds its sum.
#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

// Climbs with the sums that this rank takes part in.
class Climb {
 public:
  Climb(Call& call, const Team& team, std::span<const std::byte> in, std::span<std::byte> sum, Step step)
      : call_(call), team_(team), sum_(sum), value_(in), step_(step) {}

  std::span<const std::byte> run() {
    node(0, team_.size());
    return value_;
  }

 private:
  void node(int b, int e) {
    if (e - b == 1) return;
    const int m = tree_split(b, e);
    if (team_.self < m) {
      node(b, m);
      if (team_.self != b) return;
      Call::Incoming incoming = call_.expect(team_[m], step_, sum_.size());
      call_.open(incoming);
      combine(call_.reduce_kind(), call_.elements(sum_.size()), value_.data(), incoming.bytes.data(),
              sum_.data());
      call_.close(incoming);
      value_ = sum_;
    } else {
      node(m, e);
      if (team_.self == m) call_.wait(call_.send(team_[b], step_, value_));
    }
  }

  Call& call_;
  const Team& team_;
  std::span<std::byte> sum_;
  std::span<const std::byte> value_;
  Step step_;
};

}  // namespace

std::span<const std::byte> tree_sum(Call& call, const Team& team, std::span<const std::byte> in,
                                    std::span<std::byte> sum, Step step) {
  return Climb(call, team, in, sum, step).run();
}

// Binomial.
void tree_broadcast(Call& call, const Team& team, int root, std::span<const std::byte> in,
                    std::span<std::byte> out, Step step) {
  const int n = team.size(), self = (team.self - root + n) % n;
  const auto rank_of = [&](int i) { return team[(i + root) % n]; };
  int reach = 1;
  while (reach < n) reach *= 2;
  std::span<const std::byte> have = in;
  if (self != 0) {
    reach = self & -self;
    call.wait(call.recv(rank_of(self - reach), step, out));
    have = out;
  }
  have = call.publishable(have);
  for (int d = reach / 2; d >= 1; d /= 2) {
    if (self + d < n) call.later(call.send(rank_of(self + d), step, have));
  }
  call.wait_all();
}

void tree_all_reduce(Call& call, const Team& team, std::span<const std::byte> in, std::span<std::byte> out,
                     Step step) {
  const std::span<const std::byte> value = tree_sum(call, team, in, call.take(in.size()), step);
  if (team.self == 0) {
    copy(value, out);
    finish(call.reduce_kind(), call.elements(out.size()), out.data());
  }
  tree_broadcast(call, team, 0, out, out, step + 1);
}

std::span<std::byte> room_for_sum(Call& call) {
  return call.rank() == 0 && call.c.root_or_peer == 0 ? call.c.out : call.take(call.c.in.size());
}

void hand_to_root(Call& call, std::span<const std::byte> value, std::span<std::byte> room, Step step) {
  const int root = call.c.root_or_peer;
  if (call.rank() == 0) {
    copy(value, room);
    finish(call.reduce_kind(), call.elements(room.size()), room.data());
  }
  if (root == 0) return;
  if (call.rank() == 0) call.wait(call.send(root, step, room));
  if (call.rank() == root) call.wait(call.recv(0, step, call.c.out));
}

void run_tree(Call& call) {
  const Team& team = call.everybody();
  if (call.c.kind == CollectiveKind::kReduce) {
    const std::span<std::byte> room = room_for_sum(call);
    return hand_to_root(call, tree_sum(call, team, call.c.in, room, 0), room, 1);
  }
  if (call.c.kind != CollectiveKind::kBroadcast)  // a barrier adds nothing
    return tree_all_reduce(call, team, call.c.in, call.c.out, 0);
  tree_broadcast(call, team, call.c.root_or_peer, call.c.in, call.c.out, 0);
  if (call.rank() == call.c.root_or_peer) copy(call.c.in, call.c.out);
}

}  // namespace furrow::comm
