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
constexpr int kSpinsPerLook = 64;  // at the clock
constexpr uint64_t kTellEvery = kSlots / 4;
constexpr size_t kKeptStaging = 16;    // blocks
constexpr int64_t kSpinCrowdedNs = 0;  // more ranks than cores: whoever is waited for needs this one

// By its only writer.
void count(std::atomic<int64_t>& total, size_t bytes) {
  total.store(total.load(std::memory_order_relaxed) + static_cast<int64_t>(bytes), std::memory_order_relaxed);
}

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

uint32_t bit(uint64_t message) { return 1U << (message % kSlots); }

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
  Outgoing message{envelope, bytes, form, {}};
  if (form != MessageForm::kInline && !bytes.empty()) {
    std::optional<Location> location = locate(bytes);
    if (!location) {
      FURROW_CHECK(form == MessageForm::kRead, "only registered memory can be exposed");
      auto block = staging(bytes.size());
      std::memcpy(block->bytes().data(), bytes.data(), bytes.size());
      location = locate(block->bytes());
      message.bytes = block->bytes().first(bytes.size());
      sender.staged.emplace_back(sender.next, std::move(block));
    }
    message.location = *location;
  }
  const uint64_t number = sender.next++;
  auto& counted = form == MessageForm::kWindow ? received_ : sent_;
  count(counted[is_independent(envelope.channel) ? 1 : 0], bytes.size());
  if (sender.waiting.empty() && slot_is_free(peer)) {
    publish(peer, message);
    if (form == MessageForm::kInline) return {peer, 0};
  } else {
    sender.waiting.push_back(message);
    ++deferred_;
  }
  return {peer, 2 * (number + 1)};
}

bool SharedTransport::slot_is_free(int peer) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  if (sender.published < sender.consumed + kSlots) return true;
  sender.consumed = own().lane_to(peer)->consumed.load();
  return sender.published < sender.consumed + kSlots;
}

void SharedTransport::publish(int peer, const Outgoing& message) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  const uint64_t t = sender.published++;
  Lane& lane = *own().lane_to(peer);
  Slot& slot = lane.slots[t % kSlots];
  slot.channel = message.envelope.channel;
  slot.fingerprint = fingerprint(message.envelope);
  slot.bytes = message.bytes.size();
  slot.form = message.form;
  slot.segment = message.location.segment;
  slot.envelope = message.envelope;
  if (message.form != MessageForm::kInline) {
    std::memcpy(slot.data, &message.location.offset, sizeof(message.location.offset));
  } else if (!message.bytes.empty()) {
    std::memcpy(slot.data, message.bytes.data(), message.bytes.size());
  }
  slot.state.store(2 * t + 1);
  ring(control(peer));
  __builtin_prefetch(&lane.slots[(t + 1) % kSlots], 1);  // the peer still has that line
}

bool SharedTransport::flush(int peer) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  while (!sender.waiting.empty()) {
    if (!slot_is_free(peer)) return false;
    publish(peer, sender.waiting.front());
    sender.waiting.pop_front();
    --deferred_;
  }
  return true;
}

bool SharedTransport::sent(int peer, uint64_t message) {
  flush(peer);
  Sender& sender = senders_[static_cast<size_t>(peer)];
  if (message >= sender.published) return false;
  const Slot& slot = own().lane_to(peer)->slots[message % kSlots];
  if (slot.state.load() == 2 * message + 1 && slot.form != MessageForm::kInline) return false;
  collect_staged(sender, peer);
  return true;
}

void SharedTransport::collect_staged(Sender& sender, int peer) {
  while (!sender.staged.empty()) {
    const uint64_t message = sender.staged.front().first;
    const Slot& slot = own().lane_to(peer)->slots[message % kSlots];
    if (message >= sender.published || slot.state.load() == 2 * message + 1) return;
    if (staging_.size() < kKeptStaging) staging_.push_back(std::move(sender.staged.front().second));
    sender.staged.pop_front();
  }
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

// ---- receiving ----

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
  Lane* lane = control(peer).lane_to(roster_.rank);
  for (uint64_t t = receiver.low; t < receiver.low + kSlots; ++t) {
    Slot& slot = lane->slots[t % kSlots];
    if (t >= receiver.seen) {
      if (slot.state.load() != 2 * t + 1) return nullptr;
      receiver.seen = t + 1;
    } else if ((receiver.taken & bit(t)) != 0) {
      continue;
    }
    if (slot.channel != expected.channel) continue;
    *message = t;
    return &slot;
  }
  return nullptr;
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

// The message is read: its slot is the sender's again.
void SharedTransport::finish(int peer, uint64_t message) {
  Receiver& receiver = receivers_[static_cast<size_t>(peer)];
  Lane& lane = *control(peer).lane_to(roster_.rank);
  Slot& slot = lane.slots[message % kSlots];
  const bool awaited = slot.form != MessageForm::kInline;
  if (awaited) slot.state.store(2 * message + 2);
  receiver.taken |= bit(message);
  receiver.done |= bit(message);
  const uint64_t before = receiver.low;
  while ((receiver.done & bit(receiver.low)) != 0) {
    receiver.taken &= ~bit(receiver.low);
    receiver.done &= ~bit(receiver.low);
    ++receiver.low;
  }
  // Now and then, as the line goes to and fro between two cores.  A message that was read late moves `low` by
  // more than one.
  const bool worth_telling = receiver.low / kTellEvery != before / kTellEvery;
  if (worth_telling) lane.consumed.store(receiver.low);
  if (awaited || worth_telling) ring(control(peer));
}

std::byte* SharedTransport::bytes_of(int peer, Slot& slot) {
  if (slot.form == MessageForm::kInline || slot.bytes == 0) return slot.data;
  Location location{slot.segment, 0};
  std::memcpy(&location.offset, slot.data, sizeof(location.offset));
  return resolve(peer, location, slot.bytes);
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
    if (!posted.bytes.empty()) {
      std::memcpy(posted.bytes.data(), bytes_of(peer, *slot), posted.bytes.size());
    }
    count(received_[is_independent(posted.envelope.channel) ? 1 : 0], posted.bytes.size());
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

Window SharedTransport::open(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns) {
  uint64_t message = 0;
  Slot* slot = nullptr;
  std::byte* data = nullptr;
  wait_until(peer, &envelope, deadline_ns, [&] {
    if ((slot = find(peer, envelope, &message)) == nullptr) {
      move_on();
      return false;
    }
    check_message(peer, envelope, *slot, bytes);
    receivers_[static_cast<size_t>(peer)].taken |= bit(message);
    data = bytes_of(peer, *slot);
    if (slot->form != MessageForm::kWindow) count(received_[is_independent(envelope.channel) ? 1 : 0], bytes);
    return true;
  });
  return {{data, bytes}, peer, message};
}

void SharedTransport::close(const Window& window) {
  const std::lock_guard lock(mutex_);
  const Slot& slot = control(window.peer).lane_to(roster_.rank)->slots[window.id % kSlots];
  if (slot.form == MessageForm::kWindow) {
    count(sent_[is_independent(slot.channel) ? 1 : 0], window.bytes.size());
  }
  finish(window.peer, window.id);
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

WireBytes SharedTransport::wire_bytes(bool independent) const {
  const size_t which = independent ? 1 : 0;
  return {.sent = sent_[which].load(std::memory_order_relaxed),
          .received = received_[which].load(std::memory_order_relaxed)};
}

}  // namespace furrow::comm
