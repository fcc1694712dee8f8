#include "furrow/comm/shared_transport.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "furrow/base/clock.h"
#include "furrow/base/process.h"
#include "furrow/base/spin_pause.h"
#include "furrow/comm/awake.h"
#include "furrow/comm/fence.h"
#include "furrow/comm/futex.h"

namespace furrow::comm {
namespace {

constexpr int64_t kLookUpNs = 20'000'000;  // between two looks at the peers while asleep
// Before sleeping: longer than a wake-up through the kernel takes, or two ranks put each other to sleep in
// turns.
constexpr int64_t kSpinNs = 100'000;
constexpr int kLooks = 64;             // between two at the clock
constexpr int kPeeks = 32;             // at one word, between two looks at everything
constexpr size_t kFetched = 216;       // bytes of the next slot: four lines
constexpr size_t kKeptStaging = 16;    // blocks
constexpr int64_t kSpinCrowdedNs = 0;  // more ranks than cores: whoever is waited for needs this one

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

// For this core alone.  Compilers turn a prefetch for writing into one for reading unless they may name the
// processor, and then the write still waits for the other core; processors without the instruction skip it.
void fetch_line_to_write(const std::byte* line) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*line));
#else
  __builtin_prefetch(line, 1);
#endif
}

// The next message is like the last, and the peer still has the lines of its slot.
void fetch_to_write(const Slot& slot, size_t inline_bytes) {
  const auto* line = reinterpret_cast<const std::byte*>(&slot);
  const auto* const end = slot.data + std::min(inline_bytes, kFetched);
  for (; line < end; line += 64) fetch_line_to_write(line);
}

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
      crowding_(spin_ns_, core_count()),
      fences_(spin_ns_ > 0 && can_be_fenced()),
      senders_(peers_.size()),
      receivers_(peers_.size()) {
  own().fences.store(fences_ ? 1 : 0);
}

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
  if (form == MessageForm::kInline && sender.waiting.empty() && can_publish(peer, form)) {
    ++sender.next;
    count_sent(envelope.channel, bytes.size());
    publish_inline(peer, envelope, bytes);
    return {peer, 0};
  }
  Outgoing message{envelope, bytes, form, {}, nullptr};
  if (form != MessageForm::kInline && !bytes.empty()) {
    std::optional<Location> location = locate(bytes);
    if (!location) {
      FURROW_CHECK(form == MessageForm::kRead, "only registered memory can be exposed");
      message.staged = staging(bytes.size());
      copy(bytes, message.staged->bytes().first(bytes.size()));
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
  if (form != MessageForm::kInline && sender.waiting.empty() && can_publish(peer, form)) {
    publish(peer, message);
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

// The slot of the next message, with all but its bytes.
Slot& SharedTransport::next_slot(int peer, const Envelope& envelope, size_t bytes, MessageForm form) {
  Sender& sender = senders_[static_cast<size_t>(peer)];
  Slot& slot = own().lane_to(peer)->slots[sender.published++ % kSlots];
  slot.channel = envelope.channel;
  slot.fingerprint = fingerprint(envelope);
  slot.bytes = bytes;
  slot.form = form;
  slot.envelope = envelope;
  return slot;
}

void SharedTransport::hand_over(int peer, Slot& slot, size_t inline_bytes) {
  const uint64_t published = senders_[static_cast<size_t>(peer)].published;
  tell(control(peer), slot.state, published);
  fetch_to_write(own().lane_to(peer)->slots[published % kSlots], inline_bytes);
}

void SharedTransport::publish_inline(int peer, const Envelope& envelope, std::span<const std::byte> bytes) {
  Slot& slot = next_slot(peer, envelope, bytes.size(), MessageForm::kInline);
  if (!bytes.empty()) std::memcpy(slot.data, bytes.data(), bytes.size());
  hand_over(peer, slot, bytes.size());
  // The slot of its answer is not fetched here: a line that its writer finds shared costs a trip more.
}

void SharedTransport::publish(int peer, Outgoing& message) {
  if (message.form == MessageForm::kInline) return publish_inline(peer, message.envelope, message.bytes);
  Sender& sender = senders_[static_cast<size_t>(peer)];
  const uint64_t number = sender.published;
  Slot& slot = next_slot(peer, message.envelope, message.bytes.size(), message.form);
  if (sender.free_ends.empty()) sender.free_ends.push_back(sender.used_ends++);
  const Place place{message.location.offset, message.location.segment, sender.free_ends.back()};
  sender.free_ends.pop_back();
  std::memcpy(slot.data, &place, sizeof(place));
  sender.awaited.push_back({number, place.end, std::move(message.staged)});
  hand_over(peer, slot, sizeof(Place));
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
    wait_until({.peer = ticket.peer, .deadline_ns = deadline_ns}, [&] {
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
  wait_until({ticket.peer, &expected, deadline_ns}, [&] {
    if (is_posted(ticket.peer, ticket.id)) receive_posted(ticket.peer);
    if (!is_posted(ticket.peer, ticket.id)) return true;
    move_on();
    return false;
  });
}

// Of a message, that the lane has one that nobody looked at.
SharedTransport::Sign SharedTransport::sign_of(const Awaits& what) const {
  if (what.message == nullptr) return {};
  const uint64_t next = receivers_[static_cast<size_t>(what.peer)].seen;
  return {&slot_of(what.peer, next).state, next + 1};
}

// That `look` found what is waited for.
template <class Look>
bool SharedTransport::spin(const Look& look) {
  const std::atomic<uint32_t>& aborted = own().aborted;
  SpinWait wait(crowding_, spin_ns_);
  do {
    for (int i = 0; i < kLooks; ++i) {
      Sign sign;
      if (look(&sign)) {
        wait.came();
        return true;
      }
      if (aborted.load(std::memory_order_relaxed) != 0) return false;
      if (sign.word == nullptr) spin_pause();
      for (int k = 0; sign.word != nullptr && k < kPeeks && !sign.seen(); ++k) {
      }
    }
  } while (wait.again(now_ns, ::sched_yield));
  return false;
}

template <class Ready>
void SharedTransport::wait_until(const Awaits& what, const Ready& ready) {
  Control& me = own();
  const auto look = [&](Sign* sign) {
    const std::lock_guard lock(mutex_);
    const bool good = ready();
    if (std::exchange(received_any_, false)) tell_threads(sign == nullptr);
    if (!good && sign != nullptr) *sign = sign_of(what);
    return good;
  };
  if (spin(look)) return;
  int64_t looked_ns = awake_ns();
  while (true) {
    const uint32_t bell = me.bell.load();
    const Sleeping sleeping(me.sleeping);
    if (fences_) fence_others();  // whoever does not see it by now, has its message seen below
    // Before the last look: it may have sent and left.
    const bool gone = control(what.peer).left.load() != 0;
    const bool stop = me.aborted.load() != 0;
    if (!stop && look(nullptr)) break;
    const int64_t now = awake_ns();
    if (!stop && !gone && now < what.deadline_ns && now - looked_ns < kLookUpNs) {
      futex_wait(me.bell, bell, std::min(kLookUpNs, what.deadline_ns - now));
      continue;
    }
    looked_ns = now;
    look_up(what, gone);
  }
}

// Another thread of this rank may sleep for what this one, which may be about to sleep itself, has received
// for it.
void SharedTransport::tell_threads(bool asleep) {
  if (own().sleeping.load() == (asleep ? 1U : 0U)) return;
  own().bell.fetch_add(1);
  futex_wake(own().bell);
}

void SharedTransport::receive(int peer, const Envelope& envelope, std::span<std::byte> bytes,
                              int64_t deadline_ns) {
  const auto fetch = [&](const std::byte* from) { copy({from, bytes.size()}, bytes); };
  read(peer, envelope, bytes.size(), deadline_ns, Reader(fetch));
}

void SharedTransport::read(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns,
                           const Reader& reader) {
  const uint64_t print = fingerprint(envelope);
  wait_until({peer, &envelope, deadline_ns}, [&] {
    uint64_t message = 0;
    Slot* slot = find(peer, envelope, &message);
    if (slot == nullptr) {
      move_on();
      return false;
    }
    if (slot->fingerprint != print || slot->bytes != bytes) check_message(peer, envelope, *slot, bytes);
    reader(bytes_of(peer, *slot));
    count_received(envelope.channel, bytes);
    finish(peer, message);
    return true;
  });
}

// ---- messages in place ----

Window SharedTransport::open(int peer, const Envelope& envelope, size_t bytes, int64_t deadline_ns) {
  Window window{{}, peer, 0};
  wait_until({peer, &envelope, deadline_ns}, [&] {
    Slot* slot = find(peer, envelope, &window.id);
    if (slot == nullptr) {
      move_on();
      return false;
    }
    check_message(peer, envelope, *slot, bytes);
    if (slot->form != MessageForm::kWindow) count_received(envelope.channel, bytes);
    mark_open(peer, window.id);
    window.bytes = {bytes_of(peer, *slot), bytes};
    return true;
  });
  return window;
}

void SharedTransport::close(const Window& window) {
  const std::lock_guard lock(mutex_);
  const Slot& slot = slot_of(window.peer, window.id);
  if (slot.form == MessageForm::kWindow) count_sent(slot.channel, window.bytes.size());
  finish(window.peer, window.id);
}

}  // namespace furrow::comm
