// What ranks that share memory see of each other: one Control per rank, with the lanes that lead out of it.
// Plain data and lock-free atomics only, so that it works between processes; the layout is private to one
// build of the library.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>

#include "furrow/comm/progress_note.h"
#include "furrow/comm/transport.h"

namespace furrow::comm {

inline constexpr uint64_t kSlots = 16;       // messages of one lane that are under way
inline constexpr uint32_t kEnds = 256;       // of them and of those put aside, with bytes at the sender
inline constexpr uint32_t kSegments = 1024;  // registered blocks of one rank at a time
inline constexpr size_t kReasonBytes = 3072;

enum class MessageForm : uint32_t {
  kInline,  // the bytes are in the slot
  kRead,    // the bytes are the sender's, at the Place in the slot
  kWindow,  // and may be written
};

// Where the bytes of a message are, and which of the lane's ends says that they were read or written.
struct Place {
  uint64_t offset = 0;
  uint32_t segment = 0;
  uint32_t end = 0;
};

// Message t of a lane lies in slot t % kSlots.  What the receiver of a small message reads comes first, in as
// few cache lines as it takes; each is a trip between two cores.
struct alignas(64) Slot {
  std::atomic<uint64_t> state{0};  // t + 1: message t is here
  uint64_t channel = 0;
  uint64_t fingerprint = 0;  // of the envelope
  uint64_t bytes = 0;
  MessageForm form = MessageForm::kInline;
  alignas(8) std::byte data[kInlineBytes];  // of a message of up to so many, or a Place
  Envelope envelope;                        // read when the fingerprint differs
};

struct Lane {
  Slot slots[kSlots];
  alignas(64) std::atomic<uint64_t> consumed{0};  // messages below it were taken out: their slots are free
  struct alignas(64) End {
    std::atomic<uint64_t> message{0};  // t + 1: message t, which had this end, was read or written
  };
  End ends[kEnds];
};

__extension__ using Product = unsigned __int128;

// Equal for equal envelopes, and else by chance of 2^-64 only.
inline uint64_t fingerprint(const Envelope& envelope) {
  uint64_t words[sizeof(Envelope) / sizeof(uint64_t)];
  std::memcpy(words, &envelope, sizeof(words));
  uint64_t sum = 0, key = 0x9e3779b97f4a7c15;
  for (size_t i = 0; i < std::size(words); i += 2) {  // half as many multiplications as words
    const auto product = static_cast<Product>(words[i] ^ key) * (words[i + 1] ^ std::rotl(key, 32));
    sum += static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    key += 0x3c6ef372fe94f82a;
  }
  return sum;
}

struct SegmentEntry {
  std::atomic<uint32_t> id{0};  // 0: free
  std::atomic<int32_t> descriptor{-1};
  std::atomic<uint64_t> bytes{0};
};

struct alignas(64) Control {
  // The owner sleeps here; whoever changes what it may wait for rings (futex.h).
  std::atomic<uint32_t> bell{0};
  std::atomic<uint32_t> sleeping{0};             // how many of its threads
  std::atomic<uint32_t> fences{0};               // before it sleeps it calls fence_others(): peers need not
  alignas(64) std::atomic<uint32_t> aborted{0};  // 1 + the rank whose reason ends this rank's work
  std::atomic<uint32_t> left{0};                 // its communicator was closed in order
  std::atomic<uint32_t> reason_ready{0};         // code and text below are this rank's own reason
  std::atomic<uint32_t> reason_code{0};
  char reason[kReasonBytes] = {};
  alignas(64) ProgressNote progress;
  alignas(64) SegmentEntry segments[kSegments];
  // Followed by one Lane per rank of the world, to that rank.
  Lane* lane_to(int peer) { return reinterpret_cast<Lane*>(this + 1) + peer; }
};
static_assert(sizeof(Slot) % 64 == 0 && sizeof(Control) % 64 == 0);

inline size_t control_bytes(int ranks) { return sizeof(Control) + static_cast<size_t>(ranks) * sizeof(Lane); }
// In zeroed, 64-byte-aligned bytes.  Lanes are right as zeros: those that nobody uses never become memory.
Control* make_control(void* bytes);

}  // namespace furrow::comm
