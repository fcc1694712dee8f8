#include "furrow/comm/operation.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <ctime>
#include <ranges>
#include <string_view>

#include "furrow/base/clock.h"
#include "furrow/base/hash.h"
#include "furrow/comm/awake.h"

namespace furrow::comm {
namespace {

constexpr int64_t kMillisecond = 1'000'000;

}  // namespace

bool may_inline(const Communicator& communicator, const GroupSpec& group, std::span<const Collective> batch) {
  size_t bytes = 0;
  for (const Collective& c : batch) bytes += std::max(c.in.size(), c.out.size());
  return !group.independent && static_cast<int64_t>(bytes) <= communicator.options().inline_bytes;
}

// In whole words: what is read a moment after it was written in smaller pieces waits until those have left
// the core, which is longer than all of this takes.
Envelope envelope_of(const GroupSpec& group, const Collective& c, uint64_t sequence, int algorithm) {
  static_assert(std::endian::native == std::endian::little);
  const bool pair = is_pair(c.kind);
  const auto kind = static_cast<uint64_t>(pair ? CollectiveKind::kSend : c.kind);
  const int root = pair ? -1 : c.root_or_peer;
  uint64_t counts_hash = 0, elements = 0, label[3] = {};
  // Not the counts of all_to_all: those differ.
  if (c.kind != CollectiveKind::kAllToAll) {
    elements = static_cast<uint64_t>(elements_in(std::max(c.in.size(), c.out.size()), c.dtype));
    if (!c.counts.empty()) counts_hash = static_cast<uint32_t>(xxh3_64(std::as_bytes(std::span(c.counts))));
  }
  if (!c.label.empty()) std::memcpy(label, c.label.data(), std::min(c.label.size(), sizeof(label)));
  const uint64_t words[] = {
      group.channel,
      sequence,
      kind << 32 | static_cast<uint64_t>(c.dtype) << 40 | static_cast<uint64_t>(c.reduction) << 48 |
          static_cast<uint64_t>(algorithm) << 56,
      static_cast<uint32_t>(root) | counts_hash << 32,
      elements,
      label[0],
      label[1],
      label[2],
  };
  Envelope e;
  static_assert(sizeof(words) == sizeof(e));
  std::memcpy(&e, words, sizeof(e));
  return e;
}

// Reading the exact clock twice would be a fifth of a small operation.
int64_t operation_clock_ns(const Collective& c) {
  if (!is_small(c)) return system_clock().monotonic_ns();
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

int64_t deadline_of(const Communicator& communicator, const Collective& c, int64_t started_ns) {
  return started_ns - stopped_ns() +
         (c.timeout_ms > 0 ? c.timeout_ms : communicator.timeout_ms()) * kMillisecond;
}

namespace {

// With the key that says how long ranks wait for each other, once.
Error with_remedy(const Communicator& communicator, const Error& error) {
  const std::string_view said = error.what();
  if (error.code() != ErrorCode::kDeadlineExceeded || said.find("_timeout_seconds") != said.npos)
    return error;
  const bool starts = communicator.timeout_ms() != communicator.options().timeout_ms;
  Error whole(error.code(), fmt::format("{}; where it is only slow, raise comm.{}_timeout_seconds",
                                        error.message(), starts ? "init" : "train"));
  for (const std::string& context : error.contexts() | std::views::reverse)
    whole = whole.with_context(context);
  return whole;
}

}  // namespace

void fail_operation(Communicator& communicator, const GroupSpec& group, const Envelope& envelope,
                    const Error& error) {
  const Error full = with_remedy(communicator, communicator.with_progress(error))
                         .with_context(fmt::format("{} in group {} on {}", describe(envelope), group.name,
                                                   describe(communicator.roster(), communicator.rank())));
  communicator.abort(full);
  throw full;
}

void GroupCosts::expect(const Collective& c) {
  expected_ = true;
  payload_bytes_ = static_cast<int64_t>(std::max(c.in.size(), c.out.size()));
  bound_bytes_ = bound_bytes(c, group_.rank, static_cast<int>(group_.members.size()));
  Ledger::Entry*& entry = entries_[static_cast<size_t>(c.kind)];
  if (entry == nullptr || Ledger::label(*entry) != c.label) {
    entry = &communicator_.ledger().entry(group_.name, c.kind, c.label);
  }
}

void GroupCosts::add(const Collective& c, int algorithm, Crossed wire, int64_t busy_ns) {
  if (!expected_) expect(c);
  expected_ = false;
  const bool outgoing = c.kind == CollectiveKind::kReduce || c.kind == CollectiveKind::kSend;
  Ledger::add(*entries_[static_cast<size_t>(c.kind)],
              {algorithm, payload_bytes_, outgoing ? wire.sent : wire.received, bound_bytes_, busy_ns});
}

}  // namespace furrow::comm
