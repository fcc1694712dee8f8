#include "furrow/comm/stream.h"

#include "furrow/comm/memory.h"

#if defined(__x86_64__)
#include <emmintrin.h>

#include <cstdint>
#include <iterator>
#endif

namespace furrow::comm {

#if defined(__x86_64__)
namespace {

constexpr size_t kLine = 64;

// Of others copy() has moved whole lines as fast.
bool streams() {
  static const bool intel = __builtin_cpu_is("intel") != 0;
  return intel;
}

// REQUIRES: `out` begins a line, and there are whole ones.
void store_past_caches(const std::byte* in, std::byte* out, size_t bytes) {
  constexpr size_t kVector = sizeof(__m128i);
  for (size_t line = 0; line < bytes; line += kLine) {
    __m128i values[kLine / kVector];
    for (size_t v = 0; v < std::size(values); ++v)
      values[v] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + line + v * kVector));
    for (size_t v = 0; v < std::size(values); ++v)
      _mm_stream_si128(reinterpret_cast<__m128i*>(out + line + v * kVector), values[v]);
  }
  _mm_sfence();  // before whoever is told that they are there
}

}  // namespace

void stream(std::span<const std::byte> in, std::span<std::byte> out) {
  if (in.size() < kStreamed || in.data() == out.data() || !streams()) return copy(in, out);
  const size_t head = (kLine - reinterpret_cast<uintptr_t>(out.data()) % kLine) % kLine;
  const size_t lines = (in.size() - head) / kLine * kLine, tail = head + lines;
  copy(in.first(head), out.first(head));
  store_past_caches(in.data() + head, out.data() + head, lines);
  copy(in.subspan(tail), out.subspan(tail));
}
#else
void stream(std::span<const std::byte> in, std::span<std::byte> out) { copy(in, out); }
#endif

}  // namespace furrow::comm
