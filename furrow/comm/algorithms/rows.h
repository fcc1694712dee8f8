// The functions behind the rows of algorithms/table.cc, and the parts that algorithms share.
#pragma once

#include <functional>

#include "furrow/comm/call.h"

namespace furrow::comm {

bool fits_always(const Call& call);
bool always_canonical(const Call& call);
bool never_canonical(const Call& call);

void run_direct(Call& call);
bool fits_flat(const Call& call);
void run_flat(Call& call);
bool fits_ring(const Call& call);
void run_ring(Call& call);
bool fits_doubling(const Call& call);
void run_doubling(Call& call);
bool fits_tree(const Call& call);
void run_tree(Call& call);
bool fits_hierarchical(const Call& call);
bool hierarchical_is_canonical(const Call& call);
void run_hierarchical(Call& call);
void run_hierarchical_ring(Call& call);

// ---- Parts, over a team.  `part(i)`: bytes of member i in the buffer of all.  They use one step number
// each, but ring as many as the team has members. ----

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

}  // namespace furrow::comm
