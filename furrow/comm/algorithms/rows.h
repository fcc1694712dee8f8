// The functions behind the rows of algorithms/table.cc, and the parts that algorithms share.
#pragma once

#include <functional>

#include "furrow/comm/call.h"

namespace furrow::comm {

bool any_shape(const Call& call);
bool several_on_each_host(const Call& call);  // as many on each of two hosts or more
bool always_canonical(const Call& call);
bool never_canonical(const Call& call);
bool doubling_is_canonical(const Call& call);
bool hierarchical_is_canonical(const Call& call);

void run_direct(Call& call);
void run_flat(Call& call);
void run_ring(Call& call);
void run_doubling(Call& call);
void run_tree(Call& call);
void run_hierarchical(Call& call);
void run_hierarchical_ring(Call& call);
void run_hierarchical_tree(Call& call);

// ---- Parts, over a team.  `part(i)`: bytes of member i in the buffer of all.  They use one step number
// each, but ring as many as the team has members and tree_all_reduce two. ----

using PartOf = std::function<Call::Slice(int)>;

// Own part of the sum of all `in` into `out`, which may be that part of `in`; avg is not divided yet.
void direct_reduce_scatter(Call& call, const Team& team, std::span<const std::byte> in,
                           std::span<std::byte> out, Step step, const PartOf& part);
void ring_reduce_scatter(Call& call, const Team& team, std::span<const std::byte> in,
                         std::span<std::byte> out, Step step, const PartOf& part);
// Everybody's part of `all` to everybody; the own one is there already.
void direct_all_gather(Call& call, const Team& team, std::span<std::byte> all, Step step, const PartOf& part);
// A reduce_scatter, and the all_gather of what it makes, where all see each other's memory: the owner of a
// slice reads it everywhere and writes the result everywhere, in one pass and while the lines are in its
// cache.
void direct_scatter_and_gather(Call& reduce, Call& gather);
void ring_all_gather(Call& call, const Team& team, std::span<std::byte> all, Step step, const PartOf& part);
// The sum of everybody's `in` at the first member, in its `in` or `sum`; avg is not divided yet.
std::span<const std::byte> tree_sum(Call& call, const Team& team, std::span<const std::byte> in,
                                    std::span<std::byte> sum, Step step);
// Of member `root`'s `in` to the `out` of all others.
void tree_broadcast(Call& call, const Team& team, int root, std::span<const std::byte> in,
                    std::span<std::byte> out, Step step);
void tree_all_reduce(Call& call, const Team& team, std::span<const std::byte> in, std::span<std::byte> out,
                     Step step);
// Of a reduce whose sum rank 0 has: room for it, and its way, finished, to the root.
std::span<std::byte> room_for_sum(Call& call);
void hand_to_root(Call& call, std::span<const std::byte> value, std::span<std::byte> room, Step step);

}  // namespace furrow::comm
