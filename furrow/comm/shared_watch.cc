// What ranks that share memory tell each other besides messages: progress, aborts, deaths.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "furrow/base/text.h"
#include "furrow/comm/awake.h"
#include "furrow/comm/fence.h"
#include "furrow/comm/futex.h"
#include "furrow/comm/shared_transport.h"

namespace furrow::comm {
namespace {

constexpr int kTries = 1000;

// Same place in the program, another operation?
bool contradicts(const Envelope& mine, const Envelope& theirs) {
  constexpr auto kPair = static_cast<uint8_t>(CollectiveKind::kSend);
  if (mine.kind == kPair || theirs.kind == kPair) return false;
  if (mine.channel != theirs.channel || mine.sequence != theirs.sequence) return false;
  Envelope a = mine, b = theirs;
  a.step = b.step = 0;
  return a != b;
}

}  // namespace

void SharedTransport::leave() noexcept {
  own().left.store(1);
  for (Control* peer : peers_) {
    if (peer != nullptr) ring(*peer);
  }
}

void SharedTransport::look_up(const Awaits& what, bool gone) {
  if (own().aborted.load() != 0) throw hear_abort();
  const auto ended = [&](int r, std::string_view how) {
    throw Error(ErrorCode::kUnavailable, fmt::format("{} {}", describe(roster_, r), how));
  };
  for (int r = 0; r < roster_.size(); ++r) {
    if (r == roster_.rank || peers_[static_cast<size_t>(r)] == nullptr || control(r).left.load() != 0)
      continue;
    if (died(r)) ended(r, "ended");
  }
  if (gone) ended(what.peer, "has left");
  if (what.message != nullptr) check_same_operation(what.peer, *what.message);
  if (awake_ns() < what.deadline_ns) return;
  throw Error(ErrorCode::kDeadlineExceeded,
              fmt::format("{} did not answer in time", describe(roster_, what.peer)));
}

// A peer that waits for this rank too, in another operation, will never send anything.
void SharedTransport::check_same_operation(int peer, const Envelope& expected) {
  const auto theirs = control(peer).progress.read();
  if (theirs && !theirs->finished && contradicts(expected, theirs->operation)) {
    throw mismatch_error(roster_.rank, expected, peer, theirs->operation);
  }
}

// Writes what the peer may wait for.
void SharedTransport::tell(Control& peer, std::atomic<uint64_t>& word, uint64_t value) {
  if (fences_ && peer.fences.load(std::memory_order_relaxed) != 0) {
    store_lightly(word, value);
  } else {
    word.store(value);
  }
  ring(peer);
}

void SharedTransport::ring(Control& control) {
  if (control.sleeping.load() == 0) return;
  control.bell.fetch_add(1);
  futex_wake(control.bell);
}

// ---- progress and failure ----

std::optional<PeerProgress> SharedTransport::progress_of(int peer) const {
  std::optional<ProgressNote::State> state;
  // It may be just writing; or have been stopped while it did.
  for (int tries = 0; tries < kTries && !state; ++tries) state = control(peer).progress.read();
  if (!state) return std::nullopt;
  const auto how = state->finished ? PeerProgress::How::kFinished : PeerProgress::How::kBegun;
  return PeerProgress{state->operation, how, state->changed_ns};
}

void SharedTransport::listen() {
  if (own().aborted.load(std::memory_order_relaxed) != 0) hear_abort();
}

// The reason, which the handler hears of if it is a peer's.
Error SharedTransport::hear_abort() {
  const int from = static_cast<int>(own().aborted.load()) - 1;
  const Control& source = control(from);
  Error reason(ErrorCode::kCancelled, fmt::format("aborted by {}", describe(roster_, from)));
  if (source.reason_ready.load() != 0) {
    reason = Error(static_cast<ErrorCode>(source.reason_code.load()), source.reason);
    if (from != roster_.rank) reason = told_by(roster_, from, reason);
  }
  if (from != roster_.rank && !handled_.exchange(true) && failure_handler_) failure_handler_(reason);
  return reason;
}

void SharedTransport::abort(const Error& reason) noexcept {
  const std::lock_guard lock(abort_mutex_);
  Control& me = own();
  if (me.aborted.load() == 0 && me.reason_ready.load() == 0) {
    const std::string_view text = reason.what();
    const size_t length = std::min(text.size(), kReasonBytes - 1);
    std::memcpy(me.reason, text.data(), length);
    me.reason[length] = '\0';
    me.reason_code.store(static_cast<uint32_t>(reason.code()));
    me.reason_ready.store(1);
  }
  const uint32_t first = me.aborted.load() != 0 ? me.aborted.load() : 1 + static_cast<uint32_t>(roster_.rank);
  for (Control* peer : peers_) {
    if (peer == nullptr) continue;
    uint32_t none = 0;
    peer->aborted.compare_exchange_strong(none, first);
    peer->bell.fetch_add(1);
    futex_wake(peer->bell);
  }
}

}  // namespace furrow::comm
