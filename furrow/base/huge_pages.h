// Memory in huge pages of 2 MiB.  One entry of a processor's cache of addresses covers what 512 pages of
// 4 KiB need an entry each for, and rows that lie pages apart, as those of matrices do, are then read without
// waiting for addresses first.
#pragma once

#include <cstddef>

namespace furrow {

// What is smaller comes from malloc.
inline constexpr size_t kLeastInHugePages = size_t{64} << 10;

// Whether what is freed may be handed out again: address sanitizer then would not see who still uses it.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kReusesMemory = false;
#else
inline constexpr bool kReusesMemory = true;
#endif

// 64-byte aligned, not cleared; null where memory is short.  What is large lies side by side in huge pages,
// where the system has such (Linux: `always` or `madvise` in /sys/kernel/mm/transparent_hugepage/enabled).
// Thread safe.  REQUIRES: bytes > 0.
void* allocate_memory(size_t bytes);

// `bytes`: those it was allocated with.  Some megabytes are kept for the next ones, the rest goes back to the
// system in whole huge pages.
void free_memory(void* memory, size_t bytes);

}  // namespace furrow
