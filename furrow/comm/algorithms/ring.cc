// Each rank sends to the next one only.  The sum of member i's part runs once around, from member i + 1 to
// member i:
// ((x[i+1] + x[i+2]) + ...) + x[i].  Patarasuk and Yuan, 2009.
#include <algorithm>

#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {

void ring_reduce_scatter(Call& call, const Team& team, std::span<const std::byte> in,
                         std::span<std::byte> out, Step step, const PartOf& part) {
  const int n = team.size(), next = team[(team.self + 1) % n], previous = team[(team.self + n - 1) % n];
  const auto part_back = [&](int steps) { return part((team.self + 2 * n - steps) % n); };
  const auto own = [&](const Call::Slice& s) { return in.subspan(s.begin, s.bytes); };
  size_t largest = 0;
  for (int i = 0; i < n; ++i) largest = std::max(largest, part(i).bytes);
  const std::span<std::byte> sums[] = {call.take(largest), call.take(largest)};

  std::span<const std::byte> running = own(part_back(1));
  for (int t = 0; t + 1 < n; ++t) {
    const Call::Slice s = part_back(t + 2);
    const Ticket sent = call.send(next, step + static_cast<Step>(t), running);
    Call::Incoming incoming = call.expect(previous, step + static_cast<Step>(t), s.bytes);
    call.open(incoming);
    const std::span<std::byte> sum = t + 2 < n ? sums[t % 2].first(s.bytes) : out;
    combine(call.reduce_kind(), call.elements(s.bytes), incoming.bytes.data(), own(s).data(), sum.data());
    call.close(incoming);
    call.wait(sent);
    running = sum;
  }
  if (n == 1) copy(own(part(0)), out);
}

void ring_all_gather(Call& call, const Team& team, std::span<std::byte> all, Step step, const PartOf& part) {
  const int n = team.size(), next = team[(team.self + 1) % n], previous = team[(team.self + n - 1) % n];
  for (int t = 0; t + 1 < n; ++t) {
    const Call::Slice mine = part((team.self + n - t) % n), theirs = part((team.self + 2 * n - t - 1) % n);
    call.exchange(next, all.subspan(mine.begin, mine.bytes), previous,
                  all.subspan(theirs.begin, theirs.bytes), step + static_cast<Step>(t));
  }
}

bool never_canonical(const Call&) { return false; }

void run_ring(Call& call) {
  const Team& team = call.everybody();
  const auto slice = [&](int r) { return call.slice(r); };
  const auto share = [&](int r) { return Call::share(call.payload(), r, team.size()); };
  std::span<std::byte> mine = call.c.out;
  if (call.c.kind == CollectiveKind::kAllGather) {
    const Call::Slice own = slice(team.self);
    copy(call.c.in, call.c.out.subspan(own.begin, own.bytes));
    return ring_all_gather(call, team, call.c.out, 0, slice);
  }
  const bool all = call.c.kind == CollectiveKind::kAllReduce;
  if (all) mine = mine.subspan(share(team.self).begin, share(team.self).bytes);
  ring_reduce_scatter(call, team, call.c.in, mine, 0, all ? PartOf(share) : PartOf(slice));
  finish(call.reduce_kind(), call.elements(mine.size()), mine.data());
  if (all) ring_all_gather(call, team, call.c.out, static_cast<Step>(team.size()), share);
}

}  // namespace furrow::comm
