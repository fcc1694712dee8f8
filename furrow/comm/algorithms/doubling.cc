// Recursive halving and doubling, for a power of two of ranks: log2(n) exchanges with partners 1, 2, 4, ...
// away. Nearest partners add first, the lower rank's term on the left: the canonical tree.  Thakur,
// Rabenseifner and Gropp, "Optimization of collective communication operations in MPICH", 2005.
#include <bit>

#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

void all_reduce(Call& call) {
  copy(call.c.in, call.c.out);
  const std::span<std::byte> out = call.c.out;
  std::vector<Call::Slice> kept = {{0, out.size()}};
  Step step = 0;
  for (int distance = 1; distance < call.size(); distance *= 2, ++step) {
    const int partner = call.rank() ^ distance;
    const bool low = call.rank() < partner;
    const Call::Slice range = kept.back();
    Call::Slice halves[] = {Call::share(range.bytes, 0, 2), Call::share(range.bytes, 1, 2)};
    for (Call::Slice& half : halves) half.begin += range.begin;
    const Call::Slice keep = halves[low ? 0 : 1], give = halves[low ? 1 : 0];
    const Ticket sent = call.send(partner, step, out.subspan(give.begin, give.bytes));
    Call::Incoming incoming = call.expect(partner, step, keep.bytes);
    call.open(incoming);
    std::byte* mine = out.data() + keep.begin;
    combine(call.reduce_kind(), call.elements(keep.bytes), low ? mine : incoming.bytes.data(),
            low ? incoming.bytes.data() : mine, mine);
    call.close(incoming);
    call.wait(sent);
    kept.push_back(keep);
  }
  finish(call.reduce_kind(), call.elements(kept.back().bytes), out.data() + kept.back().begin);
  for (int distance = call.size() / 2; distance >= 1; distance /= 2, ++step) {
    const Call::Slice mine = kept.back();
    kept.pop_back();
    const Call::Slice whole = kept.back();
    const bool low = (call.rank() & distance) == 0;
    const Call::Slice theirs = low ? Call::Slice{whole.begin + mine.bytes, whole.bytes - mine.bytes}
                                   : Call::Slice{whole.begin, whole.bytes - mine.bytes};
    const int partner = call.rank() ^ distance;
    call.exchange(partner, out.subspan(mine.begin, mine.bytes), partner,
                  out.subspan(theirs.begin, theirs.bytes), step);
  }
}

void all_gather(Call& call) {
  const Call::Slice own = call.slice(call.rank());
  const std::span<std::byte> out = call.c.out;
  copy(call.c.in, out.subspan(own.begin, own.bytes));
  Step step = 0;
  for (int distance = 1; distance < call.size(); distance *= 2, ++step) {
    const int partner = call.rank() ^ distance;
    const auto block = [&](int rank) {
      const int first = rank / distance * distance;
      const size_t begin = call.slice(first).begin;
      const Call::Slice last = call.slice(first + distance - 1);
      return out.subspan(begin, last.begin + last.bytes - begin);
    };
    call.exchange(partner, block(call.rank()), partner, block(partner), step);
  }
}

}  // namespace

bool fits_doubling(const Call& call) {
  return std::has_single_bit(static_cast<unsigned>(call.size())) &&
         (call.c.kind == CollectiveKind::kAllReduce || call.c.kind == CollectiveKind::kAllGather);
}

void run_doubling(Call& call) {
  if (call.c.kind == CollectiveKind::kAllReduce) return all_reduce(call);
  all_gather(call);
}

}  // namespace furrow::comm
