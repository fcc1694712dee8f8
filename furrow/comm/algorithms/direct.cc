// Everybody exchanges with everybody: the owner of a slice fetches it from all others and adds in the
// canonical tree.
#include <algorithm>

#include "furrow/comm/algorithms/rows.h"

namespace furrow::comm {
namespace {

// Rank + 1, rank + 2, ...: so that not all fetch from the same one at the same time.
template <class Fn>
void for_each_peer(const Call& call, const Fn& fn) {
  for (int i = 1; i < call.size(); ++i) fn((call.rank() + i) % call.size());
}

struct Messages {
  std::vector<Call::Incoming> incoming;   // by rank; own one unused
  std::vector<const std::byte*> sources;  // by rank
};

void expect_from_all(Call& call, Step step, size_t bytes, Messages& m) {
  m.incoming.resize(static_cast<size_t>(call.size()));
  m.sources.resize(static_cast<size_t>(call.size()));
  for_each_peer(call,
                [&](int peer) { m.incoming[static_cast<size_t>(peer)] = call.expect(peer, step, bytes); });
}

void open_all(Call& call, const std::byte* own, Messages& m) {
  m.sources[static_cast<size_t>(call.rank())] = own;
  for_each_peer(call, [&](int peer) {
    Call::Incoming& incoming = m.incoming[static_cast<size_t>(peer)];
    call.open(incoming);
    m.sources[static_cast<size_t>(peer)] = incoming.bytes.data();
  });
}

void close_all(Call& call, const Messages& m) {
  for_each_peer(call, [&](int peer) { call.close(m.incoming[static_cast<size_t>(peer)]); });
}

int64_t elements(const Call& call, size_t bytes) { return static_cast<int64_t>(bytes / call.element()); }

// Reduces slice `part(rank)` of `in` into `out`, which may be that slice.
template <class Part>
void reduce_slices(Call& call, std::span<const std::byte> in, std::span<std::byte> out, Step step,
                   const Part& part) {
  Messages m;
  expect_from_all(call, step, out.size(), m);
  for_each_peer(call, [&](int peer) {
    const Call::Slice s = part(peer);
    call.later(call.send(peer, step, in.subspan(s.begin, s.bytes)));
  });
  open_all(call, in.data() + part(call.rank()).begin, m);
  std::byte* const destination[] = {out.data()};
  reduce_tree(call.reduce_kind(), elements(call, out.size()), m.sources, destination);
  close_all(call, m);
  call.wait_all();
}

// Every rank's slice of `out` to everybody.
template <class Part>
void gather_slices(Call& call, std::span<std::byte> out, Step step, const Part& part) {
  const Call::Slice own = part(call.rank());
  const std::span<const std::byte> mine = call.publishable(out.subspan(own.begin, own.bytes));
  for_each_peer(call, [&](int peer) { call.later(call.send(peer, step, mine)); });
  for_each_peer(call, [&](int peer) {
    const Call::Slice s = part(peer);
    call.later(call.recv(peer, step, out.subspan(s.begin, s.bytes)));
  });
  call.wait_all();
}

void all_reduce_messages(Call& call) {
  const auto part = [&](int r) { return call.share(call.c.in.size(), r); };
  const Call::Slice own = part(call.rank());
  reduce_slices(call, call.c.in, call.c.out.subspan(own.begin, own.bytes), 0, part);
  gather_slices(call, call.c.out, 1, part);
}

// One piece in shared memory: the owner of a share reads it everywhere and writes the result everywhere,
// while the lines are in its cache.  `in` may be `out`.
void all_reduce_piece(Call& call, std::span<const std::byte> in, std::span<std::byte> out, Step step) {
  const auto part = [&](int r) { return call.share(in.size(), r); };
  for_each_peer(call, [&](int peer) {
    const Call::Slice s = part(peer);
    call.later(call.send(peer, step, in.subspan(s.begin, s.bytes)));
    call.later(call.memory(peer).post_expose(call.world(peer), call.envelope(step + 1),
                                             out.subspan(s.begin, s.bytes)));
  });
  const Call::Slice own = part(call.rank());
  Messages reads, writes;
  expect_from_all(call, step, own.bytes, reads);
  expect_from_all(call, step + 1, own.bytes, writes);
  open_all(call, in.data() + own.begin, reads);
  open_all(call, nullptr, writes);
  std::vector<std::byte*> destinations = {out.data() + own.begin};
  for_each_peer(call, [&](int peer) {
    destinations.push_back(writes.incoming[static_cast<size_t>(peer)].window.bytes.data());
  });
  reduce_tree(call.reduce_kind(), elements(call, own.bytes), reads.sources, destinations);
  close_all(call, reads);
  close_all(call, writes);
  call.wait_all();
}

// In pieces, so that what must be staged (memory that peers cannot see) stays small and in the cache.
void all_reduce_memory(Call& call) {
  constexpr size_t kPiece = 4 << 20;
  const bool in_seen = call.is_registered(call.c.in), out_seen = call.is_registered(call.c.out);
  const bool in_place = call.c.in.data() == call.c.out.data();
  const size_t bytes = call.c.in.size();
  std::span<std::byte> staged_in, staged_out;
  if (!in_seen) staged_in = call.take(std::min(bytes, kPiece));
  if (!out_seen) staged_out = in_place ? staged_in : call.take(std::min(bytes, kPiece));
  Step step = 0;
  for (size_t begin = 0; begin == 0 || begin < bytes; begin += kPiece, step += 2) {
    const size_t size = std::min(kPiece, bytes - begin);
    std::span<const std::byte> in = call.c.in.subspan(begin, size);
    const std::span<std::byte> out = call.c.out.subspan(begin, size);
    if (!in_seen) {
      copy(in, staged_in);
      in = staged_in.first(size);
    }
    all_reduce_piece(call, in, out_seen ? out : staged_out.first(size), step);
    if (!out_seen) copy(staged_out.first(size), out);
  }
}

void broadcast(Call& call) {
  const int root = call.c.root_or_peer;
  if (call.rank() != root) return call.wait(call.recv(root, 0, call.c.out));
  const std::span<const std::byte> bytes = call.publishable(call.c.in);
  for_each_peer(call, [&](int peer) { call.later(call.send(peer, 0, bytes)); });
  copy(call.c.in, call.c.out);
  call.wait_all();
}

void reduce(Call& call) {
  const int root = call.c.root_or_peer;
  if (call.rank() != root) return call.wait(call.send(root, 0, call.c.in));
  Messages m;
  expect_from_all(call, 0, call.c.in.size(), m);
  open_all(call, call.c.in.data(), m);
  std::byte* const destination[] = {call.c.out.data()};
  reduce_tree(call.reduce_kind(), elements(call, call.c.in.size()), m.sources, destination);
  close_all(call, m);
}

void all_to_all(Call& call) {
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
  for_each_peer(call, [&](int peer) { call.later(call.send(peer, 0, source(static_cast<size_t>(peer)))); });
  for_each_peer(call, [&](int peer) { call.later(call.recv(peer, 0, target(static_cast<size_t>(peer)))); });
  copy(source(static_cast<size_t>(call.rank())), target(static_cast<size_t>(call.rank())));
  call.wait_all();
}

void barrier(Call& call) {
  for_each_peer(call, [&](int peer) { call.later(call.send(peer, 0, {})); });
  for_each_peer(call, [&](int peer) { call.later(call.recv(peer, 0, {})); });
  call.wait_all();
}

}  // namespace

bool fits_always(const Call&) { return true; }
bool always_canonical(const Call&) { return true; }

void run_direct(Call& call) {
  const auto slice = [&](int r) { return call.slice(r); };
  switch (call.c.kind) {
    case CollectiveKind::kAllReduce:
      return call.wires() == Wires::kMemory ? all_reduce_memory(call) : all_reduce_messages(call);
    case CollectiveKind::kReduceScatter:
      return reduce_slices(call, call.c.in, call.c.out, 0, slice);
    case CollectiveKind::kAllGather: {
      const Call::Slice own = call.slice(call.rank());
      copy(call.c.in, call.c.out.subspan(own.begin, own.bytes));
      return gather_slices(call, call.c.out, 0, slice);
    }
    case CollectiveKind::kBroadcast:
      return broadcast(call);
    case CollectiveKind::kReduce:
      return reduce(call);
    case CollectiveKind::kAllToAll:
      return all_to_all(call);
    case CollectiveKind::kBarrier:
      return barrier(call);
    case CollectiveKind::kSend:
      return call.later(call.send(call.c.root_or_peer, 0, call.c.in));
    case CollectiveKind::kRecv:
      return call.wait(call.recv(call.c.root_or_peer, 0, call.c.out));
  }
}

// ---- flat: for buffers so small that one round costs more than all the bytes ----

bool fits_flat(const Call& call) { return call.c.kind == CollectiveKind::kAllReduce; }

void run_flat(Call& call) {
  Messages m;
  const std::span<const std::byte> in = call.publishable(call.c.in);
  expect_from_all(call, 0, in.size(), m);
  for_each_peer(call, [&](int peer) { call.later(call.send(peer, 0, in)); });
  open_all(call, in.data(), m);
  const std::span<std::byte> sum = call.take(in.size());
  std::byte* const destination[] = {sum.data()};
  reduce_tree(call.reduce_kind(), elements(call, in.size()), m.sources, destination);
  close_all(call, m);
  call.wait_all();  // peers may still read `in`, which may be `out`
  copy(sum, call.c.out);
}

}  // namespace furrow::comm
