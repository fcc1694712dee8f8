// The operation that a rank is in, for whoever wants to know: other threads, and ranks that share its memory.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>

#include "furrow/comm/transport.h"

namespace furrow::comm {

// One writer, any number of readers, no locks.  Zeroed memory is a note of nothing.
class ProgressNote {
 public:
  struct State {
    Envelope operation;
    bool finished = false;
    int64_t changed_ns = 0;
  };

  void begin(const Envelope& operation, int64_t now_ns) {
    uint64_t words[kWords];
    std::memcpy(words, &operation, sizeof(words));
    const uint64_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    for (size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_release);
    finished_.store(0, std::memory_order_release);
    changed_ns_.store(now_ns, std::memory_order_release);
    version_.store(version + 2, std::memory_order_release);
  }

  void end(int64_t now_ns) {
    changed_ns_.store(now_ns, std::memory_order_release);
    finished_.store(1, std::memory_order_release);
  }

  // Nothing before the first begin(), or while it is being written.
  std::optional<State> read() const {
    const uint64_t version = version_.load(std::memory_order_acquire);
    uint64_t words[kWords];
    for (size_t i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_acquire);
    State state;
    std::memcpy(&state.operation, words, sizeof(words));
    state.finished = finished_.load(std::memory_order_acquire) != 0;
    state.changed_ns = changed_ns_.load(std::memory_order_acquire);
    if (version == 0 || version % 2 != 0 || version_.load(std::memory_order_acquire) != version)
      return std::nullopt;
    return state;
  }

 private:
  static constexpr size_t kWords = sizeof(Envelope) / sizeof(uint64_t);
  std::atomic<uint64_t> version_{0};  // odd while it is being written
  std::atomic<uint64_t> words_[kWords] = {};
  std::atomic<int64_t> changed_ns_{0};
  std::atomic<uint32_t> finished_{0};
};

}  // namespace furrow::comm
