// Sleeping on a word that may lie in memory shared between processes.
#pragma once

#include <atomic>
#include <cstdint>

namespace furrow::comm {

// Returns when the word differs from `expected`, when woken, after the time-out, or for no reason.
void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected, int64_t timeout_ns);
void futex_wake(const std::atomic<uint32_t>& word);  // everybody

}  // namespace furrow::comm
