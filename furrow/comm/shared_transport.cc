#include "furrow/comm/shared_transport.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/process.h"
#include "furrow/comm/futex.h"

namespace furrow::comm {
namespace {

constexpr int64_t kLookUpNs = 20'000'000;  // between two looks at the peers while asleep
// Before sleeping: longer than a wake-up through the kernel takes, or two ranks put each other to sleep in
// turns.
constexpr int64_t kSpinNs = 100'000;
constexpr int kSpinsPerLook = 64;         // at the clock
constexpr size_t kKeptStaging = 16;       // blocks
constexpr uint64_t kCopied = UINT64_MAX;  // id of a window whose bytes are a copy
constexpr int64_t kSpinCrowdedNs = 0;     // more ranks than cores: whoever is waited for needs this one

// Says that a thread of this rank sleeps, or is about to.
class Sleeping {
 public:
  explicit Sleeping(std::atomic<uint32_t>& count) : count_(count) { count_.fetch_add(1); }
  ~Sleeping() { count_.fetch_sub(1); }
  Sleeping(const Sleeping&) = delete;
  Sleeping& operator=(const Sleeping&) = delete;

 private:
  std::atomic<uint32_t>& count_;
};

bool is_send(uint64_t ticket_id) { return ticket_id % 2 == 0; }

int64_t now_ns() { return system_clock().monotonic_ns(); }

// Ranks that are pinned have few cores each and many together.
int64_t spin_ns_for(const Roster& roster, const std::vector<Control*>& peers) {
  std::vector<int64_t> ids;
  for (size_t rank = 0; rank < peers.size(); ++rank) {
    if (peers[rank] != nullptr) ids.push_back(roster.ranks[rank].pid);
  }
  return static_cast<int>(ids.size()) <= core_count_of(ids) ? kSpinNs : kSpinCrowdedNs;
}

}  // namespace

Control* make_control(void* bytes) { return new (bytes) Control(); }

SharedTransport::SharedTransport(Roster roster, std::vector<Control*> controls)
    : roster_(std::move(roster)),
      peers_(std::move(controls)),
      spin_ns_(spin_ns_for(roster_, peers_)),
      senders_(peers_.size()),
      receivers_(peers_.size()) {}

SharedTransport::~SharedTransport() = default;

// ---- sending ----

Ticket SharedTransport::post_send(int peer, const Envelope& envelope, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  return post(peer, envelope, bytes,
              bytes.size() <= kInlineBytes ? MessageForm::kInline : MessageForm::kRead);
}

Ticket SharedTransport::post_expose(int peer, const Envelope& envelope, std::span<std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  return post(peer, envelope, bytes, MessageForm::kWindow);
}

Ticket SharedTransport::post(int peer, const Envelope& envelope, std::span<const std::byte> bytes,
                             MessageForm form) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  Outgoing message{envelope, bytes, form, {}, nullptr};
  if (form != MessageForm::kInline && !bytes.empty()) {
    std::optional<Location> location = locate(bytes);
    if (!location) {
      FURROW_CHECK(form == MessageForm::kRead, "only registered memory can be exposed");
      message.staged = staging(bytes.size());
      std::memcpy(message.staged->bytes().data(), bytes.data(), bytes.size());
      location = locate(message.staged->bytes());
    }
    message.location = *location;
  }
  const uint64_t number = sender.next++;
  if (form == MessageForm::kWindow) {
    count_received(envelope.channel, bytes.size());
  } else {
    count_sent(envelope.channel, bytes.size());
  }
  if (sender.waiting.empty() && can_publish(peer, form)) {
    publish(peer, message);
    if (form == MessageForm::kInline) return {peer, 0};
  } else {
    sender.waiting.push_back(std::move(message));
    ++deferred_;
  }
  return {peer, 2 * (number + 1)};
}

bool SharedTransport::can_publish(int peer, MessageForm form) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  if (form != MessageForm::kInline && sender.awaited.size() == kEnds && !collect_read(peer)) return false;
  if (sender.published < sender.consumed + kSlots) return true;
  sender.consumed = own().lane_to(peer)->consumed.load();
  return sender.published < sender.consumed + kSlots;
}

void SharedTransport::publish(int peer, Outgoing& message) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  const uint64_t t = sender.published++;
  Lane& lane = *own().lane_to(peer);
  Slot& slot = lane.slots[t % kSlots];
  slot.channel = message.envelope.channel;
  slot.fingerprint = fingerprint(message.envelope);
  slot.bytes = message.bytes.size();
  slot.form = message.form;
  slot.envelope = message.envelope;
  if (message.form != MessageForm::kInline) {
    if (sender.free_ends.empty()) sender.free_ends.push_back(sender.used_ends++);
    const Place place{message.location.offset, message.location.segment, sender.free_ends.back()};
    sender.free_ends.pop_back();
    std::memcpy(slot.data, &place, sizeof(place));
    sender.awaited.push_back({t, place.end, std::move(message.staged)});
  } else if (!message.bytes.empty()) {
    std::memcpy(slot.data, message.bytes.data(), message.bytes.size());
  }
  slot.state.store(t + 1);
  ring(control(peer));
  __builtin_prefetch(&lane.slots[(t + 1) % kSlots], 1);  // the peer still has that line
}

void SharedTransport::flush(int peer) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  while (!sender.waiting.empty() && can_publish(peer, sender.waiting.front().form)) {
    publish(peer, sender.waiting.front());
    sender.waiting.pop_front();
    --deferred_;
  }
}

bool SharedTransport::sent(int peer, uint64_t message) {
  flush(peer);
  Sender& sender = senders_[static_cast<size_t>(peer)];
  if (message >= sender.published) return false;
  const auto found = std::find_if(sender.awaited.begin(), sender.awaited.end(),
                                  [&](const Awaited& a) { return a.message == message; });
  if (found == sender.awaited.end()) return true;  // it was inline
  if (own().lane_to(peer)->ends[found->end].message.load() != message + 1) return false;
  keep_staging(std::move(found->staged));
  sender.free_ends.push_back(found->end);
  sender.awaited.erase(found);
  return true;
}

// Frees the ends of messages that were read before anybody waited for them.  True when there are any.
bool SharedTransport::collect_read(int peer) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  const Lane& lane = *own().lane_to(peer);
  for (size_t i = 0; i < sender.awaited.size();) {
    Awaited& one = sender.awaited[i];
    if (lane.ends[one.end].message.load() != one.message + 1) {
      ++i;
      continue;
    }
    keep_staging(std::move(one.staged));
    sender.free_ends.push_back(one.end);
    sender.awaited.erase(sender.awaited.begin() + static_cast<std::ptrdiff_t>(i));
  }
  return sender.awaited.size() < kEnds;
}

void SharedTransport::keep_staging(std::unique_ptr<Memory::Block> block) {
  if (block && staging_.size() < kKeptStaging) staging_.push_back(std::move(block));
}

// Of at most twice the size that is needed.
std::unique_ptr<Memory::Block> SharedTransport::staging(size_t bytes) {
  for (auto& kept : staging_) {
    if (kept->bytes().size() < bytes || kept->bytes().size() / 2 > bytes) continue;
    std::swap(kept, staging_.back());
    auto block = std::move(staging_.back());
    staging_.pop_back();
    return block;
  }
  return allocate(bytes);
}

// ---- waiting ----

void SharedTransport::wait(Ticket ticket, int64_t deadline_ns) {
  if (ticket.id == 0) return;
  if (is_send(ticket.id)) {
    const uint64_t message = ticket.id / 2 - 1;
    wait_until(ticket.peer, nullptr, deadline_ns, [&] {
      move_on();
      return sent(ticket.peer, message);
    });
    return;
  }
  Envelope expected;
  {
    const std::lock_guard lock(mutex_);
    for (const Posted& posted : receivers_[static_cast<size_t>(ticket.peer)].posted) {
      if (posted.id == ticket.id) expected = posted.envelope;
    }
  }
  wait_until(ticket.peer, &expected, deadline_ns, [&] {
    if (is_posted(ticket.peer, ticket.id)) receive_posted(ticket.peer);
    if (!is_posted(ticket.peer, ticket.id)) return true;
    move_on();
    return false;
  });
}

// A thread inside wait_until().
struct SharedTransport::Waiting {
  explicit Waiting(SharedTransport& t) : transport(t) { change(1); }
  ~Waiting() { change(-1); }
  Waiting(const Waiting&) = delete;
  Waiting& operator=(const Waiting&) = delete;
  void change(int by) const {
    const std::lock_guard lock(transport.mutex_);
    transport.waiting_ += by;
  }
  SharedTransport& transport;
};

template <class Ready>
void SharedTransport::wait_until(int peer, const Envelope* expected, int64_t deadline_ns,
                                 const Ready& ready) {
  Control& me = own();
  const auto look = [&] {
    const std::lock_guard lock(mutex_);
    const bool good = ready();
    if (std::exchange(received_any_, false) && waiting_ > 1) wake_self();
    return good;
  };
  const Waiting waiting(*this);
  int64_t end_ns = 0;  // of spinning; the clock is not looked at before the first round is over
  do {
    for (int i = 0; i < kSpinsPerLook; ++i) {
      if (look()) return;
      if (me.aborted.load(std::memory_order_relaxed) != 0) break;
      spin_pause();
    }
    if (end_ns == 0) end_ns = now_ns() + spin_ns_;
  } while (me.aborted.load(std::memory_order_relaxed) == 0 && now_ns() < end_ns);
  int64_t looked_ns = now_ns();
  while (true) {
    const uint32_t bell = me.bell.load();
    const Sleeping sleeping(me.sleeping);
    const bool gone = control(peer).left.load() != 0;  // before the last look: it may have sent and left
    const bool stop = me.aborted.load() != 0;
    if (!stop && look()) break;
    const int64_t now = now_ns();
    if (!stop && !gone && now < deadline_ns && now - looked_ns < kLookUpNs) {
      futex_wait(me.bell, bell, std::min(kLookUpNs, deadline_ns - now));
      continue;
    }
    looked_ns = now;
    look_up(peer, gone, expected, deadline_ns);
  }
}

// Another thread of this rank may sleep for what this one has received for it.
void SharedTransport::wake_self() {
  own().bell.fetch_add(1);
  futex_wake(own().bell);
}

// ---- messages in place ----

Window SharedTransport::open(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns) {
  Window window{{}, peer, kCopied};
  wait_until(peer, &envelope, deadline_ns, [&] {
    uint64_t message = 0;
    Slot* slot = find(peer, envelope, &message);
    if (slot == nullptr) {
      move_on();
      return false;
    }
    check_message(peer, envelope, *slot, bytes);
    if (slot->form != MessageForm::kWindow) count_received(envelope.channel, bytes);
    if (slot->form == MessageForm::kInline) {
      window.bytes = room_for({slot->data, bytes});
      finish(peer, message);
      return true;
    }
    mark_open(peer, message);
    window.bytes = {bytes_of(peer, *slot), bytes};
    window.id = message;
    return true;
  });
  return window;
}

// A copy of a small message, so that it holds no slot while it is open.
std::span<std::byte> SharedTransport::room_for(std::span<const std::byte> bytes) {
  if (spare_rooms_.empty()) {
    rooms_.push_back(std::make_unique<std::byte[]>(kInlineBytes));
    spare_rooms_.push_back(rooms_.back().get());
  }
  std::byte* room = spare_rooms_.back();
  spare_rooms_.pop_back();
  std::memcpy(room, bytes.data(), bytes.size());
  return {room, bytes.size()};
}

void SharedTransport::close(const Window& window) {
  const std::lock_guard lock(mutex_);
  if (window.id == kCopied) return spare_rooms_.push_back(window.bytes.data());
  const Slot& slot = slot_of(window.peer, window.id);
  if (slot.form == MessageForm::kWindow) count_sent(slot.channel, window.bytes.size());
  finish(window.peer, window.id);
}

}  // namespace furrow::comm
