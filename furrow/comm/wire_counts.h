// What crossed the wires of one transport: each independent group on its own, all other groups together.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace furrow::comm {

// Channels of independent groups are odd: their operations run beside others, so their bytes are counted
// apart.
inline uint64_t channel_of(uint64_t hash, bool independent) {
  return (hash & ~uint64_t{1}) | (independent ? 1 : 0);
}
inline bool is_independent(uint64_t channel) { return (channel & 1) != 0; }

// What crossed, frames and checksums included: as two numbers, since a small operation would wait for what is
// written in pieces and read in larger ones.
struct Crossed {
  int64_t sent = 0, received = 0;
  Crossed& operator+=(const Crossed& other) {
    sent += other.sent;
    received += other.received;
    return *this;
  }
  Crossed operator-(const Crossed& other) const { return {sent - other.sent, received - other.received}; }
};

// Totals since the transport was made.  For shared memory, bytes read from and written to peers' memory.
struct WireBytes {
  int64_t sent = 0;           // payload
  int64_t received = 0;       // payload
  int64_t overhead_sent = 0;  // frames, checksums
  int64_t overhead_received = 0;
  WireBytes& operator+=(const WireBytes& other) {
    sent += other.sent;
    received += other.received;
    overhead_sent += other.overhead_sent;
    overhead_received += other.overhead_received;
    return *this;
  }
  Crossed crossed() const { return {sent + overhead_sent, received + overhead_received}; }
};

// One thread at a time adds; any thread reads, without a lock.
class WireCounts {
 public:
  void add(uint64_t channel, const WireBytes& bytes);
  void add_sent(uint64_t channel, int64_t bytes) { increase(row(channel).sent, bytes); }
  void add_received(uint64_t channel, int64_t bytes) { increase(row(channel).received, bytes); }
  WireBytes all() const;
  // Of the independent group of that channel; of an even channel, of all groups that are not independent.
  Crossed of(uint64_t channel) const {
    return is_independent(channel) ? of_independent(channel) : first_.crossed();
  }

 private:
  struct Row {
    uint64_t channel = 0;  // 0: of all that are even
    std::atomic<int64_t> sent{0}, received{0}, overhead_sent{0}, overhead_received{0};
    std::atomic<Row*> next{nullptr};
    WireBytes bytes() const {
      return {sent.load(std::memory_order_relaxed), received.load(std::memory_order_relaxed),
              overhead_sent.load(std::memory_order_relaxed),
              overhead_received.load(std::memory_order_relaxed)};
    }
    Crossed crossed() const { return bytes().crossed(); }
  };
  static void increase(std::atomic<int64_t>& total, int64_t by) {
    total.store(total.load(std::memory_order_relaxed) + by, std::memory_order_relaxed);
  }
  Row& row(uint64_t channel) { return is_independent(channel) ? independent_row(channel) : first_; }
  Row& independent_row(uint64_t channel);
  Crossed of_independent(uint64_t channel) const;

  Row first_;
  std::vector<std::unique_ptr<Row>> others_;  // for who adds; read along `next`
};

}  // namespace furrow::comm
