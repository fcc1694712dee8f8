// Everybody exchanges with everybody: the owner of a slice fetches it from all others and adds in the
// canonical tree.
#include <algorithm>
#include <new>
#include <type_traits>
#include <utility>

#include "furrow/comm/algorithms/rows.h"
#include "furrow/comm/stream.h"

namespace furrow::comm {
namespace {

// The next one, the one after it, ...: so that not all fetch from the same one at the same time.
template <class Fn>
void for_each_peer(const Team& team, const Fn& fn) {
  const int n = team.size();
  for (int i = team.self + 1; i < team.self + n; ++i) fn(i < n ? i : i - n);  // % is dear for a small one
}

// n values, the usual few of them without an allocation.  Each is made before it is used.
template <class T>
class Few {
 public:
  explicit Few(size_t n) : size_(n), many_(n > kFew ? n : 0) {}
  // Where it lies: to be copied it would be read in words that are not yet written.
  template <class Make>
  void make(size_t i, const Make& make) {
    ::new (static_cast<void*>(data() + i)) T(make());
  }
  T& operator[](size_t i) { return data()[i]; }
  std::span<const T> span() { return {data(), size_}; }

 private:
  static_assert(std::is_trivially_destructible_v<T>);
  T* data() { return size_ > kFew ? many_.data() : std::launder(reinterpret_cast<T*>(few_)); }
  static constexpr size_t kFew = 8;
  size_t size_;
  alignas(T) std::byte few_[kFew * sizeof(T)];
  std::vector<T> many_;
};

struct Messages {
  explicit Messages(const Team& team) : incoming(team.ranks.size()), sources(team.ranks.size()) {}
  Few<Call::Incoming> incoming;   // by index in the team; own one unused
  Few<const std::byte*> sources;  // by index in the team
};

using Expect = Call::Incoming (Call::*)(int from, Step step, size_t bytes);

Messages expect_from_all(Call& call, const Team& team, Step step, size_t bytes,
                         Expect expect = &Call::expect) {
  Messages m(team);
  for_each_peer(team, [&](int i) {
    m.incoming.make(static_cast<size_t>(i), [&] { return (call.*expect)(team[i], step, bytes); });
  });
  return m;
}

void open_all(Call& call, const Team& team, const std::byte* own, Messages& m) {
  m.sources[static_cast<size_t>(team.self)] = own;
  for_each_peer(team, [&](int i) {
    Call::Incoming& incoming = m.incoming[static_cast<size_t>(i)];
    call.open(incoming);
    m.sources[static_cast<size_t>(i)] = incoming.bytes.data();
  });
}

void close_all(Call& call, const Team& team, Messages& m) {
  for_each_peer(team, [&](int i) { call.close(m.incoming[static_cast<size_t>(i)]); });
}

// The terms of all in the canonical tree into `sum`: small ones in memory out of their slots, with nothing
// that is posted, staged or opened.
void add_from_slots(Call& call, const Team& team, const ReduceKind& kind, const std::byte* own, Step step,
                    std::span<std::byte> sum) {
  Few<const std::byte*> terms(team.ranks.size());
  terms[static_cast<size_t>(team.self)] = own;
  const int last = team.self > 0 ? team.self - 1 : team.size() - 1;
  for_each_peer(team, [&](int i) {
    if (i == last) return;
    const std::span<std::byte> room = call.take(sum.size());
    call.receive(team[i], step, room);
    terms[static_cast<size_t>(i)] = room.data();
  });
  const auto add_with = [&](const std::byte* bytes) {
    terms[static_cast<size_t>(last)] = bytes;
    std::byte* const destination[] = {sum.data()};
    reduce_tree(kind, call.elements(sum.size()), terms.span(), destination);
  };
  call.read(team[last], step, sum.size(), Reader(add_with));
}

// The same however the terms come.
void add_all(Call& call, const Team& team, const ReduceKind& kind, const std::byte* own, Step step,
             std::span<std::byte> sum) {
  if (team.size() > 1 && call.wires() == Wires::kMemory && sum.size() <= kInlineBytes)
    return add_from_slots(call, team, kind, own, step, sum);
  Messages m = expect_from_all(call, team, step, sum.size());
  std::byte* const destination[] = {sum.data()};
  open_all(call, team, own, m);
  reduce_tree(kind, call.elements(sum.size()), m.sources.span(), destination);
  close_all(call, team, m);
}

void all_reduce_messages(Call& call, const Team& team) {
  const auto part = [&](int i) { return Call::share(call.c.in.size(), i, team.size()); };
  const Call::Slice own = part(team.self);
  const std::span<std::byte> mine = call.c.out.subspan(own.begin, own.bytes);
  direct_reduce_scatter(call, team, call.c.in, mine, 0, part);
  finish(call.reduce_kind(), call.elements(mine.size()), mine.data());
  direct_all_gather(call, team, call.c.out, 1, part);
}

// The messages of one direction.
struct Way {
  Call& call;
  Step step;
};

// This rank's own part: nobody else looks at these, so they may be memory that peers cannot see.
struct OwnPart {
  const std::byte* in = nullptr;
  std::vector<std::byte*> out;
};

// In shared memory: the owner of a part reads it everywhere and writes the result to its own places and
// everywhere, while the lines are in its cache.  `in` may be `out`; of both only the parts of peers count.
template <class Part>
void add_and_spread(const Way& from, const Way& to, const Team& team, std::span<const std::byte> in,
                    std::span<std::byte> out, const Part& part, OwnPart own_part) {
  for_each_peer(team, [&](int i) {
    const Call::Slice s = part(i);
    from.call.later(from.call.send(team[i], from.step, in.subspan(s.begin, s.bytes)));
    to.call.later(to.call.expose(team[i], to.step, out.subspan(s.begin, s.bytes)));
  });
  const Call::Slice own = part(team.self);
  Messages reads = expect_from_all(from.call, team, from.step, own.bytes);
  Messages writes = expect_from_all(to.call, team, to.step, own.bytes, &Call::expect_exposed);
  open_all(from.call, team, own_part.in, reads);
  open_all(to.call, team, nullptr, writes);
  for_each_peer(team, [&](int i) {
    own_part.out.push_back(writes.incoming[static_cast<size_t>(i)].window.bytes.data());
  });
  reduce_tree(from.call.reduce_kind(), from.call.elements(own.bytes), reads.sources.span(), own_part.out);
  close_all(from.call, team, reads);
  close_all(to.call, team, writes);
  from.call.wait_all();
  to.call.wait_all();
}

// Where this rank's buffers cannot be seen, what stands for them.
struct Staged {
  std::span<std::byte> in, out;  // empty: the buffer itself is seen
};

void all_reduce_piece(Call& call, const Team& team, Call::Slice piece, const Staged& staged, Step step) {
  const std::span<const std::byte> in = call.c.in.subspan(piece.begin, piece.bytes);
  const std::span<std::byte> out = call.c.out.subspan(piece.begin, piece.bytes);
  const auto part = [&](int i) { return Call::share(piece.bytes, i, team.size()); };
  const Call::Slice own = part(team.self);
  const auto copy_others = [&](std::span<const std::byte> source, std::span<std::byte> target) {
    const size_t end = own.begin + own.bytes;
    copy(source.first(own.begin), target.first(own.begin));
    copy(source.subspan(end, piece.bytes - end), target.subspan(end, piece.bytes - end));
  };
  if (!staged.in.empty()) copy_others(in, staged.in);
  add_and_spread({call, step}, {call, step + 1}, team, staged.in.empty() ? in : staged.in.first(piece.bytes),
                 staged.out.empty() ? out : staged.out.first(piece.bytes), part,
                 {in.data() + own.begin, {out.data() + own.begin}});
  if (!staged.out.empty()) copy_others(staged.out, out);
}

// In pieces, so that what is staged stays small; the same ones on every rank, though some may see and others
// not.
void all_reduce_memory(Call& call, const Team& team) {
  constexpr size_t kPiece = 16 << 20;  // more rounds than that would slow what all see
  const size_t bytes = call.c.in.size(), most = std::min(bytes, kPiece);
  const bool in_place = call.c.in.data() == call.c.out.data();
  Staged staged;
  if (!call.is_registered(call.c.in)) staged.in = call.take(most);
  if (!call.is_registered(call.c.out)) staged.out = in_place ? staged.in : call.take(most);
  Step step = 0;
  for (size_t begin = 0; begin == 0 || begin < bytes; begin += kPiece, step += 2)
    all_reduce_piece(call, team, {begin, std::min(kPiece, bytes - begin)}, staged, step);
}

// Begins to send `mine` to everybody and to receive their parts of `all`.
template <class Part>
void gather_parts(Call& call, const Team& team, std::span<const std::byte> mine, std::span<std::byte> all,
                  Step step, const Part& part) {
  for_each_peer(team, [&](int i) { call.later(call.send(team[i], step, mine)); });
  for_each_peer(team, [&](int i) {
    const Call::Slice s = part(i);
    call.later(call.recv(team[i], step, all.subspan(s.begin, s.bytes)));
  });
}

// Peers read `in` where they can: its lines were not written a moment ago by another core, as those of `out`.
void all_gather(Call& call, const Team& team) {
  const auto part = [&](int i) { return call.slice(i); };
  const Call::Slice own = part(team.self);
  const std::span<std::byte> place = call.c.out.subspan(own.begin, own.bytes);
  if (call.c.in.size() > kInlineBytes && !call.is_registered(call.c.in)) {
    copy(call.c.in, place);
    return direct_all_gather(call, team, call.c.out, 0, part);
  }
  if (call.wires() == Wires::kMemory && is_small(call.c)) {  // a receive that is posted is one to look up
    for_each_peer(team, [&](int i) { call.later(call.send(team[i], 0, call.c.in)); });
    copy(call.c.in, place);
    for_each_peer(team, [&](int i) {
      const Call::Slice s = part(i);
      call.receive(team[i], 0, call.c.out.subspan(s.begin, s.bytes));
    });
    return call.wait_all();
  }
  gather_parts(call, team, call.c.in, call.c.out, 0, part);
  stream(call.c.in, place);
  call.wait_all();
}

void broadcast(Call& call, const Team& team) {
  const int root = call.c.root_or_peer;
  if (team.self != root) return call.wait(call.recv(root, 0, call.c.out));
  const std::span<const std::byte> bytes = call.publishable(call.c.in);
  for_each_peer(team, [&](int i) { call.later(call.send(i, 0, bytes)); });
  copy(call.c.in, call.c.out);
  call.wait_all();
}

void reduce(Call& call, const Team& team) {
  const int root = call.c.root_or_peer;
  if (team.self != root) return call.wait(call.send(root, 0, call.c.in));
  add_all(call, team, call.reduce_kind(), call.c.in.data(), 0, call.c.out);
}

void all_to_all(Call& call, const Team& team) {
  const auto offsets = [&](const std::vector<int64_t>& counts, size_t total) {
    std::vector<size_t> begin(static_cast<size_t>(call.size()) + 1, 0);
    for (size_t r = 0; r + 1 < begin.size(); ++r) {
      begin[r + 1] = begin[r] + (counts.empty() ? total / (begin.size() - 1)
                                                : static_cast<size_t>(counts[r]) * call.element());
    }
    return begin;
  };
  const std::vector<size_t> from = offsets(call.c.send_counts, call.c.in.size());
  const std::vector<size_t> to = offsets(call.c.recv_counts, call.c.out.size());
  const auto source = [&](size_t r) { return call.c.in.subspan(from[r], from[r + 1] - from[r]); };
  const auto target = [&](size_t r) { return call.c.out.subspan(to[r], to[r + 1] - to[r]); };
  for_each_peer(team, [&](int peer) { call.later(call.send(peer, 0, source(static_cast<size_t>(peer)))); });
  for_each_peer(team, [&](int peer) { call.later(call.recv(peer, 0, target(static_cast<size_t>(peer)))); });
  copy(source(static_cast<size_t>(call.rank())), target(static_cast<size_t>(call.rank())));
  call.wait_all();
}

void barrier(Call& call, const Team& team) {
  for_each_peer(team, [&](int peer) { call.later(call.send(peer, 0, {})); });
  for_each_peer(team, [&](int peer) { call.receive(peer, 0, {}); });
  call.wait_all();
}

}  // namespace

void direct_reduce_scatter(Call& call, const Team& team, std::span<const std::byte> in,
                           std::span<std::byte> out, Step step, const PartOf& part) {
  for_each_peer(team, [&](int i) {
    const Call::Slice s = part(i);
    call.later(call.send(team[i], step, in.subspan(s.begin, s.bytes)));
  });
  ReduceKind unfinished = call.reduce_kind();
  unfinished.ranks = 1;
  add_all(call, team, unfinished, in.data() + part(team.self).begin, step, out);
  call.wait_all();
}

void direct_all_gather(Call& call, const Team& team, std::span<std::byte> all, Step step,
                       const PartOf& part) {
  const Call::Slice own = part(team.self);
  gather_parts(call, team, call.publishable(all.subspan(own.begin, own.bytes)), all, step, part);
  call.wait_all();
}

void direct_scatter_and_gather(Call& reduce, Call& gather) {
  constexpr Step kStep = 2;  // not those of the two alone
  const Team& team = reduce.everybody();
  const std::span<std::byte> all = gather.c.out;
  const bool seen = gather.is_registered(all);
  const std::span<std::byte> opened = seen ? all : gather.take(all.size());
  const auto slice = [&](int i) { return reduce.slice(i); };
  const size_t own = slice(team.self).begin;
  OwnPart own_part{reduce.c.in.data() + own, {reduce.c.out.data()}};
  if (all.data() + own != reduce.c.out.data()) own_part.out.push_back(all.data() + own);
  add_and_spread({reduce, kStep}, {gather, kStep}, team, reduce.c.in, opened, slice, std::move(own_part));
  if (seen) return;
  for_each_peer(team, [&](int i) {
    const Call::Slice s = slice(i);
    copy(opened.subspan(s.begin, s.bytes), all.subspan(s.begin, s.bytes));
  });
}

bool any_shape(const Call&) { return true; }
bool always_canonical(const Call&) { return true; }

void run_direct(Call& call) {
  const Team& team = call.everybody();
  const auto slice = [&](int r) { return call.slice(r); };
  switch (call.c.kind) {
    case CollectiveKind::kAllReduce:
      return call.wires() == Wires::kMemory ? all_reduce_memory(call, team) : all_reduce_messages(call, team);
    case CollectiveKind::kReduceScatter:
      direct_reduce_scatter(call, team, call.c.in, call.c.out, 0, slice);
      return finish(call.reduce_kind(), call.elements(call.c.out.size()), call.c.out.data());
    case CollectiveKind::kAllGather:
      return all_gather(call, team);
    case CollectiveKind::kBroadcast:
      return broadcast(call, team);
    case CollectiveKind::kReduce:
      return reduce(call, team);
    case CollectiveKind::kAllToAll:
      return all_to_all(call, team);
    case CollectiveKind::kBarrier:
      return barrier(call, team);
    case CollectiveKind::kSend:
      return call.later(call.send(call.c.root_or_peer, 0, call.c.in));
    case CollectiveKind::kRecv:
      return call.wait(call.recv(call.c.root_or_peer, 0, call.c.out));
  }
}

// ---- flat: for buffers so small that one round costs more than all the bytes ----

void run_flat(Call& call) {
  const Team& team = call.everybody();
  const std::span<const std::byte> in = call.publishable(call.c.in);
  for_each_peer(team, [&](int i) { call.later(call.send(i, 0, in)); });
  // Peers may still read `in`, which may be `out`, unless it went inside the messages.
  const std::span<std::byte> sum = call.pending().empty() ? call.c.out : call.take(in.size());
  add_all(call, team, call.reduce_kind(), in.data(), 0, sum);
  call.wait_all();
  copy(sum, call.c.out);
}

}  // namespace furrow::comm
