// What the files of MpiExchange share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace furrow::comm {

inline constexpr int64_t kMostMpiElements = 1 << 30;  // in one call of MPI, whose counts are ints

// in to out, unless it is in place; of the same operation's buffers only.
inline void copy_terms(std::span<const std::byte> in, std::span<std::byte> out) {
  if (!in.empty() && in.data() != out.data()) std::memmove(out.data(), in.data(), in.size());
}

inline int mpi_count(int64_t n) { return static_cast<int>(n); }  // REQUIRES: it fits

}  // namespace furrow::comm
