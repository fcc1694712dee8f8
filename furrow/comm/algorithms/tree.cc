// Up and down a binary tree, whole buffers: few messages for each rank, for small buffers and many ranks.  Up
// is the canonical tree itself; the lowest rank of a node holds its sum.
#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

// Climbs with the sums that this rank takes part in.
class Climb {
 public:
  Climb(Call& call, std::span<std::byte> sum) : call_(call), sum_(sum), value_(call.c.in) {}

  // The sum of ranks [0, size) at rank 0.
  std::span<const std::byte> run() {
    node(0, call_.size());
    return value_;
  }

 private:
  void node(int b, int e) {
    if (e - b == 1) return;
    const int m = tree_split(b, e), rank = call_.rank();
    if (rank < m) {
      node(b, m);
      if (rank != b) return;
      Call::Incoming incoming = call_.expect(m, 0, sum_.size());
      call_.open(incoming);
      combine(call_.reduce_kind(), call_.elements(sum_.size()), value_.data(), incoming.bytes.data(),
              sum_.data());
      call_.close(incoming);
      value_ = sum_;
    } else {
      node(m, e);
      if (rank == m) call_.wait(call_.send(b, 0, value_));
    }
  }

  Call& call_;
  std::span<std::byte> sum_;
  std::span<const std::byte> value_;
};

// Binomial, from `root`.
void descend(Call& call, int root, std::span<const std::byte> in, std::span<std::byte> out, Step step) {
  const int n = call.size(), self = (call.rank() - root + n) % n;
  const auto rank_of = [&](int i) { return (i + root) % n; };
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

void reduce(Call& call) {
  const int root = call.c.root_or_peer;
  const bool at_top = call.rank() == 0;
  const std::span<std::byte> sum = call.rank() == root && at_top ? call.c.out : call.take(call.c.in.size());
  std::span<const std::byte> value = Climb(call, sum).run();
  if (at_top) {
    copy(value, sum);
    finish(call.reduce_kind(), call.elements(sum.size()), sum.data());
  }
  if (root == 0) return;
  if (at_top) call.wait(call.send(root, 1, sum));
  if (call.rank() == root) call.wait(call.recv(0, 1, call.c.out));
}

void all_reduce(Call& call) {
  const std::span<std::byte> sum = call.take(call.c.in.size());
  const std::span<const std::byte> value = Climb(call, sum).run();
  if (call.rank() == 0) {
    copy(value, call.c.out);
    finish(call.reduce_kind(), call.elements(sum.size()), call.c.out.data());
  }
  descend(call, 0, call.c.out, call.c.out, 1);
}

}  // namespace

bool fits_tree(const Call& call) {
  switch (call.c.kind) {
    case CollectiveKind::kAllReduce:
    case CollectiveKind::kReduce:
    case CollectiveKind::kBroadcast:
    case CollectiveKind::kBarrier:
      return true;
    default:
      return false;
  }
}

void run_tree(Call& call) {
  if (call.c.kind == CollectiveKind::kReduce) return reduce(call);
  if (call.c.kind != CollectiveKind::kBroadcast) return all_reduce(call);  // a barrier adds nothing
  descend(call, call.c.root_or_peer, call.c.in, call.c.out, 0);
  if (call.rank() == call.c.root_or_peer) copy(call.c.in, call.c.out);
}

}  // namespace furrow::comm
