// Messages out of the lanes of peers, in the order of each channel.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "furrow/comm/shared_transport.h"
#include "furrow/comm/stream.h"

namespace furrow::comm {
namespace {

constexpr int kEndingMs = 200;  // of a process whose descriptors are closed
constexpr uint64_t kTellEvery = kSlots / 4;
constexpr size_t kMostAside = 1 << 16;  // messages of one peer: as much memory as tcp has for early ones

uint32_t bit(uint64_t message) { return 1U << (message % kSlots); }

}  // namespace

Ticket SharedTransport::post_recv(int peer, const Envelope& envelope, std::span<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  const uint64_t id = 2 * receiver.next_id++ + 1;
  receiver.posted.push_back({id, envelope, bytes});
  ++posted_;
  return {peer, id};
}

// The oldest message of the channel that nobody took; null when there is none yet.
Slot* SharedTransport::find(int peer, const Envelope& expected, uint64_t* message) {
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  for (const Aside& aside : receiver.aside) {
    if (aside.open || aside.slot->channel != expected.channel) continue;
    *message = aside.message;
    return aside.slot.get();
  }
  Lane* lane = control(peer).lane_to(roster_.rank);
  for (uint64_t t = receiver.low; t < receiver.told + kSlots; ++t) {
    Slot& slot = lane->slots[t % kSlots];
    if (t >= receiver.seen) {
      if (slot.state.load() != t + 1) return nullptr;
      receiver.seen = t + 1;
    } else if ((receiver.taken & bit(t)) != 0) {
      continue;
    }
    if (slot.channel != expected.channel) continue;
    *message = t;
    return &slot;
  }
  // The lane is full, and what is waited for may be behind.
  if (receiver.told == receiver.low) put_aside(peer);
  tell_consumed(peer);
  return nullptr;
}

// Frees half of the lane.
void SharedTransport::put_aside(int peer) {
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  const Lane& lane = *control(peer).lane_to(roster_.rank);
  for (const uint64_t end = receiver.low + kSlots / 2; receiver.low < end;) {
    if (receiver.aside.size() == kMostAside) return;
    const uint64_t message = receiver.low;
    const Slot& slot = lane.slots[message % kSlots];
    auto copy = std::make_unique<Slot>();
    copy->channel = slot.channel;
    copy->fingerprint = slot.fingerprint;
    copy->bytes = slot.bytes;
    copy->form = slot.form;
    copy->envelope = slot.envelope;
    std::memcpy(copy->data, slot.data, slot.form == MessageForm::kInline ? slot.bytes : sizeof(Place));
    receiver.aside.push_back({message, (receiver.taken & bit(message)) != 0, std::move(copy)});
    take_out(peer, message);
  }
}

Slot& SharedTransport::slot_of(int peer, uint64_t message) const {
  const Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  if (message >= receiver.low) return control(peer).lane_to(roster_.rank)->slots[message % kSlots];
  const auto found = std::find_if(receiver.aside.begin(), receiver.aside.end(),
                                  [&](const Aside& aside) { return aside.message == message; });
  FURROW_CHECK(found != receiver.aside.end(), "a window is closed once");
  return *found->slot;
}

void SharedTransport::check_message(int peer, const Envelope& expected, const Slot& slot, uint64_t bytes) {
  if (slot.fingerprint != fingerprint(expected))
    throw mismatch_error(roster_.rank, expected, peer, slot.envelope);
  if (slot.bytes != bytes) {
    throw Error(
        ErrorCode::kFailedPrecondition,
        fmt::format("{}: rank {} expects {} bytes from rank {}, which sends {}: both give the same counts",
                    describe(expected), roster_.rank, bytes, peer, slot.bytes));
  }
}

void SharedTransport::mark_open(int peer, uint64_t message) {
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  if (message >= receiver.low) receiver.taken |= bit(message);
  for (Aside& aside : receiver.aside) {
    if (aside.message == message) aside.open = true;
  }
}

// The message is read, or written: its sender may go on.
void SharedTransport::finish(int peer, uint64_t message) {
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  const Slot& slot = slot_of(peer, message);
  if (slot.form != MessageForm::kInline) {
    Place place;
    std::memcpy(&place, slot.data, sizeof(place));
    tell(control(peer), control(peer).lane_to(roster_.rank)->ends[place.end].message, message + 1);
  }
  if (message >= receiver.low) return take_out(peer, message);
  std::erase_if(receiver.aside, [&](const Aside& aside) { return aside.message == message; });
}

// Its slot is the sender's again.
void SharedTransport::take_out(int peer, uint64_t message) {
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  if (message == receiver.low && receiver.done == 0) {  // as mostly: in the order in which they came
    receiver.taken &= ~bit(message);
    ++receiver.low;
  } else {
    receiver.taken |= bit(message);
    receiver.done |= bit(message);
  }
  while ((receiver.done & bit(receiver.low)) != 0) {
    receiver.taken &= ~bit(receiver.low);
    receiver.done &= ~bit(receiver.low);
    ++receiver.low;
  }
  // Now and then, as the line goes to and fro between two cores.
  if (receiver.low - receiver.told >= kTellEvery) tell_consumed(peer);
}

// The peer which of its messages are out of their slots.
void SharedTransport::tell_consumed(int peer) {
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  receiver.told = receiver.low;
  tell(control(peer), control(peer).lane_to(roster_.rank)->consumed, receiver.low);
}

std::byte* SharedTransport::bytes_of(int peer, Slot& slot) {
  if (slot.form == MessageForm::kInline || slot.bytes == 0) return slot.data;
  Place place;
  std::memcpy(&place, slot.data, sizeof(place));
  try {
    return resolve(peer, {place.segment, place.offset}, slot.bytes);
  } catch (const Error& how) {
    throw lost_memory(peer, how);
  }
}

// Memory goes with its process, which may have said why it ends; the system closes its descriptors a moment
// before it tells that it has ended.
Error SharedTransport::lost_memory(int peer, const Error& how) {
  if (own().aborted.load() != 0) return hear_abort();
  if (how.code() != ErrorCode::kUnavailable) return how;
  for (int ms = 0; ms < kEndingMs && !died(peer); ++ms) usleep(1000);
  return Error(ErrorCode::kUnavailable,
               fmt::format("{} {}", describe(roster_, peer), died(peer) ? "ended" : how.what()));
}

bool SharedTransport::is_posted(int peer, uint64_t id) const {
  const auto& posted = receivers_[static_cast<size_t>(peer)].posted;
  return std::any_of(posted.begin(), posted.end(), [&](const Posted& each) { return each.id == id; });
}

// What has come of the peer's messages that receives are posted for, in the order of each channel.
void SharedTransport::receive_posted(int peer) {
  std::deque<Posted>& list = receivers_[static_cast<size_t>(peer)].posted;
  for (size_t i = 0; i < list.size();) {
    const Posted posted = list[i];
    const bool behind =
        std::any_of(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(i),
                    [&](const Posted& p) { return p.envelope.channel == posted.envelope.channel; });
    uint64_t message = 0;
    Slot* slot = behind ? nullptr : find(peer, posted.envelope, &message);
    if (slot == nullptr) {
      ++i;
      continue;
    }
    check_message(peer, posted.envelope, *slot, posted.bytes.size());
    const std::span<const std::byte> bytes(bytes_of(peer, *slot), posted.bytes.size());
    if (posted.envelope.kind == static_cast<uint8_t>(CollectiveKind::kAllGather)) {
      stream(bytes, posted.bytes);  // what is gathered is whole before anybody reads it
    } else {
      copy(bytes, posted.bytes);
    }
    count_received(posted.envelope.channel, posted.bytes.size());
    finish(peer, message);
    list.erase(list.begin() + static_cast<std::ptrdiff_t>(i));
    --posted_;
    received_any_ = true;
  }
}

// Whatever is waited for: the peer may wait for another of this rank's messages first.
void SharedTransport::move_on() {
  if (posted_ == 0 && deferred_ == 0) return;
  for (int peer = 0; peer < roster_.size(); ++peer) {
    flush(peer);
    if (!receivers_[static_cast<size_t>(peer)].posted.empty()) receive_posted(peer);
  }
}

}  // namespace furrow::comm
