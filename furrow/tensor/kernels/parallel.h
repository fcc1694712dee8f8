// A loop over [0, n) cut into `threads` contiguous chunks, run by the caller and a team of threads that it
// keeps.
//
// The cut depends on (threads, n) alone, never on how many threads there really are: inside a chunk, or where
// no more threads can be had, the same chunks run on fewer.  Every calling thread has a team of its own,
// which ends with it.  The first exception of a chunk is rethrown in the caller after all chunks have ended.
#pragma once

#include <cstdint>
#include <type_traits>

namespace furrow::tensor::kernels {

// As many of `threads` as so much work is worth: one where each of two would have less than `least` of it.
inline int team_for(int64_t work, int64_t least, int threads) { return work < 2 * least ? 1 : threads; }

using ChunkFn = void (*)(void* context, int64_t begin, int64_t end);
void parallel_chunks(int threads, int64_t n, ChunkFn fn, void* context);

// fn(begin, end) once per non-empty chunk.  REQUIRES: threads >= 1, n >= 0.
template <class Fn>
void parallel_for(int threads, int64_t n, Fn&& fn) {
  using Body = std::remove_reference_t<Fn>;
  parallel_chunks(
      threads, n,
      [](void* context, int64_t begin, int64_t end) { (*static_cast<Body*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&fn)));
}

}  // namespace furrow::tensor::kernels
