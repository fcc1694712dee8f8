// A store and a load after it that another core must not see the other way round, where one side is frequent
// and the other is about to sleep: the frequent one writes and reads without a fence, and the rare one fences
// both.
#pragma once

#include <atomic>

namespace furrow::comm {

// Registers this process as one that fence_others() of others reaches.  False where the kernel or a sandbox
// does not know such fences; then both sides use seq_cst.
bool can_be_fenced();

// On return every thread of every registered process of this host has executed a full fence.
// REQUIRES: can_be_fenced().
void fence_others();

// The frequent side: stores `value`, in front of the loads that follow as far as fence_others() goes.
template <class T>
void store_lightly(std::atomic<T>& word, T value) {
  word.store(value, std::memory_order_release);
  std::atomic_signal_fence(std::memory_order_seq_cst);  // the compiler keeps the order too
}

}  // namespace furrow::comm
