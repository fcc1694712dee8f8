#include "furrow/comm/nccl/fake_reduce.h"

#include <cstdint>
#include <cstring>

namespace {

using Terms = std::span<const void* const>;

float from_half(uint16_t h, bool brain) {
  uint32_t bits;
  if (brain) {
    bits = static_cast<uint32_t>(h) << 16;
  } else {
    _Float16 value;
    std::memcpy(&value, &h, 2);
    return static_cast<float>(value);
  }
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

uint16_t to_half(float value, bool brain) {
  uint16_t h;
  if (brain) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    bits += 0x7fff + (bits >> 16 & 1);
    return static_cast<uint16_t>(bits >> 16);
  }
  const auto half = static_cast<_Float16>(value);
  std::memcpy(&h, &half, 2);
  return h;
}

template <class T>
T apply(int op, T a, T b) {
  switch (op) {
    case 1:
      return a * b;
    case 2:
      return a < b ? b : a;
    case 3:
      return b < a ? b : a;
    default:
      return a + b;
  }
}

// From the last rank to the first: not the canonical order from three ranks on.
template <class T, class Load, class Store>
void fold(Terms in, size_t begin, size_t count, int op, const Load& load, const Store& store) {
  for (size_t i = 0; i < count; ++i) {
    T sum = load(in.back(), begin + i);
    for (size_t r = in.size() - 1; r-- > 0;) sum = apply<T>(op, sum, load(in[r], begin + i));
    if (op == 4) sum = static_cast<T>(sum / static_cast<T>(in.size()));
    store(i, sum);
  }
}

template <class T>
void fold_plain(Terms in, size_t begin, size_t count, int op, void* out) {
  fold<T>(
      in, begin, count, op,
      [](const void* p, size_t i) {
        T x;
        std::memcpy(&x, static_cast<const std::byte*>(p) + i * sizeof(T), sizeof(T));
        return x;
      },
      [&](size_t i, T x) { std::memcpy(static_cast<std::byte*>(out) + i * sizeof(T), &x, sizeof(T)); });
}

void fold_into(Terms in, size_t begin, size_t count, int type, int op, void* out) {
  switch (type) {
    case 1:
      return fold_plain<uint8_t>(in, begin, count, op, out);
    case 2:
      return fold_plain<uint32_t>(in, begin, count, op >= 2 ? -1 : op, out);
    case 4:
      return fold_plain<uint64_t>(in, begin, count, op, out);
    case 7:
      return fold_plain<float>(in, begin, count, op, out);
    case 8:
      return fold_plain<double>(in, begin, count, op, out);
    default:
      fold<float>(
          in, begin, count, op,
          [type](const void* p, size_t i) {
            return from_half(static_cast<const uint16_t*>(p)[i], type == 9);
          },
          [&](size_t i, float x) { static_cast<uint16_t*>(out)[i] = to_half(x, type == 9); });
  }
}

}  // namespace

namespace fake {

size_t size_of(int type) {
  constexpr size_t kSizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
  return kSizes[type];
}

void reduce_into(Terms in, size_t begin, size_t count, int type, int op, void* out) {
  if (type == 2 && op >= 2) return fold_plain<int32_t>(in, begin, count, op, out);
  if (type == 4 && op >= 2) return fold_plain<int64_t>(in, begin, count, op, out);
  fold_into(in, begin, count, type, op, out);
}

}  // namespace fake
