#include "furrow/comm/call.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>

namespace furrow::comm {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kSmallestBlock = 1 << 20;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

}  // namespace

std::span<std::byte> Scratch::take(size_t bytes) {
  const size_t room = round_up(bytes, kLine);
  while (block_ < bytes_.size() && used_ + room > bytes_[block_].size()) {
    ++block_;
    used_ = 0;
  }
  if (block_ == bytes_.size()) {
    blocks_.push_back(communicator_.allocate(std::max(room, kSmallestBlock)));
    bytes_.push_back(blocks_.back().bytes());
    used_ = 0;
  }
  const std::span<std::byte> taken = bytes_[block_].subspan(used_, bytes);
  used_ += room;
  return taken;
}

void Scratch::release() { block_ = used_ = 0; }

Topology topology_of(Communicator& communicator, const GroupSpec& group) {
  Topology t;
  std::vector<std::string> hosts;
  bool in_memory = true;
  for (const int member : group.members) {
    std::string locality = communicator.roster().ranks[static_cast<size_t>(member)].locality;
    if (locality.empty()) locality = fmt::format("rank {}", member);
    const auto known = std::find(hosts.begin(), hosts.end(), locality);
    t.host.push_back(static_cast<int>(known - hosts.begin()));
    if (known == hosts.end()) hosts.push_back(std::move(locality));
    if (member == communicator.rank()) continue;
    in_memory = in_memory && communicator.route(member).peer_memory() != nullptr;
  }
  t.everybody.ranks.resize(group.members.size());
  std::iota(t.everybody.ranks.begin(), t.everybody.ranks.end(), 0);
  t.everybody.self = group.rank;
  t.wires = in_memory                              ? Wires::kMemory
            : hosts.size() == 1                    ? Wires::kLoopback
            : hosts.size() == group.members.size() ? Wires::kMessages
                                                   : Wires::kMixed;
  return t;
}

size_t Call::payload() const { return std::max(c.in.size(), c.out.size()); }

Call::Slice Call::slice(int r) const {
  if (c.counts.empty()) {
    const size_t bytes = payload() / static_cast<size_t>(size());
    return {static_cast<size_t>(r) * bytes, bytes};
  }
  Slice s;
  for (int i = 0; i < r; ++i) s.begin += static_cast<size_t>(c.counts[static_cast<size_t>(i)]) * element();
  s.bytes = static_cast<size_t>(c.counts[static_cast<size_t>(r)]) * element();
  return s;
}

Call::Slice Call::share(size_t bytes, int r, int n) {
  const size_t each = round_up((bytes + static_cast<size_t>(n) - 1) / static_cast<size_t>(n), kLine);
  const size_t begin = std::min(bytes, each * static_cast<size_t>(r));
  return {begin, std::min(bytes, begin + each) - begin};
}

Transport& Call::route(int rank) const { return parts_.communicator.route(world(rank)); }

// Written only where it changes: what is read again in other pieces than it was written in, a moment ago, is
// waited for.
const Envelope& Call::envelope(Step step) {
  if (envelope_.step != step) envelope_.step = step;
  return envelope_;
}

Ticket Call::send(int to, Step step, std::span<const std::byte> bytes) {
  return route(to).post_send(world(to), envelope(step), bytes);
}

Ticket Call::recv(int from, Step step, std::span<std::byte> bytes) {
  return route(from).post_recv(world(from), envelope(step), bytes);
}

void Call::begin() {
  if (started_ns_ != 0) return;
  started_ns_ = operation_clock_ns(c);
  deadline_ns_ = deadline_of(parts_.communicator, c, started_ns_);
  parts_.communicator.note(parts_.group, envelope(0), false, started_ns_);
  parts_.costs->expect(c);
}

void Call::wait(Ticket ticket) {
  if (ticket.id == 0) return;
  begin();
  parts_.communicator.route(ticket.peer).wait(ticket, deadline_ns_);
}

void Call::receive(int from, Step step, std::span<std::byte> bytes) {
  begin();
  route(from).receive(world(from), envelope(step), bytes, deadline_ns_);
}

void Call::wait_all() {
  for (const Ticket& ticket : pending_) wait(ticket);
  pending_.clear();
}

void Call::exchange(int to, std::span<const std::byte> out, int from, std::span<std::byte> in, Step step) {
  const Ticket sent = send(to, step, out);
  receive(from, step, in);
  wait(sent);
}

Call::Incoming Call::expect(int from, Step step, size_t bytes) {
  const bool in_memory = route(from).peer_memory() != nullptr;
  if (in_memory && bytes > kInlineBytes) return expect_exposed(from, step, bytes);
  Incoming incoming{.from = from, .step = step, .size = bytes};
  if (in_memory) return incoming;
  incoming.room = take(bytes);
  incoming.posted = true;
  incoming.ticket = recv(from, step, incoming.room);
  return incoming;
}

Call::Incoming Call::expect_exposed(int from, Step step, size_t bytes) {
  return {.from = from, .step = step, .size = bytes, .in_place = true};
}

void Call::open(Incoming& incoming) {
  begin();
  PeerMemory* const memory = route(incoming.from).peer_memory();
  if (incoming.in_place) {
    incoming.window =
        memory->open(world(incoming.from), envelope(incoming.step), incoming.size, deadline_ns_);
    incoming.bytes = incoming.window.bytes;
    return;
  }
  if (incoming.posted) {
    wait(incoming.ticket);
  } else {
    incoming.room = take(incoming.size);
    receive(incoming.from, incoming.step, incoming.room);
  }
  incoming.bytes = incoming.room;
}

void Call::read(int from, Step step, size_t bytes, const Reader& reader) {
  begin();
  route(from).peer_memory()->read(world(from), envelope(step), bytes, deadline_ns_, reader);
}

void Call::close(const Incoming& incoming) {
  if (incoming.in_place) route(incoming.from).peer_memory()->close(incoming.window);
}

Ticket Call::expose(int to, Step step, std::span<std::byte> bytes) {
  return route(to).peer_memory()->post_expose(world(to), envelope(step), bytes);
}

bool Call::is_registered(std::span<const std::byte> bytes) const {
  for (int r = 0; r < size(); ++r) {
    if (r == rank()) continue;
    const PeerMemory* memory = route(r).peer_memory();
    if (memory != nullptr && !memory->is_registered(bytes)) return false;
  }
  return true;
}

std::span<const std::byte> Call::publishable(std::span<const std::byte> bytes) {
  if (bytes.size() <= kInlineBytes || is_registered(bytes)) return bytes;
  const std::span<std::byte> staged = take(bytes.size());
  copy(bytes, staged);
  return staged;
}

}  // namespace furrow::comm
