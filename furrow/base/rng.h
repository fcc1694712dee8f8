// Counter-based randomness: every random number is a pure function of what it is for.
//
// Philox4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011; constants of the
// paper. The key is made of (seed, purpose, layer name); the counter of (step, global sample index, element
// block). Never the rank, never the unit index: neither may change a result.  Everything here is stateless
// and thread safe.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace furrow {

enum class RandomPurpose : uint32_t {
  kInit = 1,
  kShuffle = 2,
  kDropout = 3,
  kNoise = 4,
  kSample = 5,
  kAugment = 6
};

using PhiloxBlock = std::array<uint32_t, 4>;
PhiloxBlock philox4x32(PhiloxBlock counter, std::array<uint32_t, 2> key);

// 64-bit stable hash of a name (FNV-1a); the same on every machine.
uint64_t stable_hash(std::string_view text);

// One stream of random numbers.  `stream` names the layer or the parameter.
class Philox {
 public:
  Philox(uint64_t seed, RandomPurpose purpose, std::string_view stream);

  // Block `block` (four words) of sample `sample` in step `step`.
  PhiloxBlock block(uint64_t step, uint64_t sample, uint32_t block) const;

  std::array<uint32_t, 2> key() const { return key_; }

 private:
  std::array<uint32_t, 2> key_;
};

// Counter layout used by Philox::block, so that vectorised kernels can produce the same bits:
// {block, low32(sample), high16(sample) << 16 | high16(step), low32(step)}; step and sample < 2^48.
PhiloxBlock philox_counter(uint64_t step, uint64_t sample, uint32_t block);

inline float uniform01(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }  // [0, 1)

// Fills `out` with uniform [low, high) or normal(mean, std) numbers (Box-Muller, in double), element i from
// word i of the stream; the result does not depend on how a range is cut: `offset` is the index of out[0].
void fill_uniform(const Philox& stream, float low, float high, uint64_t offset, std::span<float> out);
void fill_normal(const Philox& stream, float mean, float std, uint64_t offset, std::span<float> out);

// A keyed permutation of [0, size): index -> index, a pure function.  An unbalanced Feistel network over the
// next power of two with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002);
// about 10 ns an index.
class KeyedPermutation {
 public:
  KeyedPermutation(uint64_t seed, uint64_t epoch, uint64_t size);  // REQUIRES: size > 0
  uint64_t operator()(uint64_t index) const;                       // REQUIRES: index < size

 private:
  // Multiply-shift, strongly universal for 32-bit values (Dietzfelbinger, "Universal hashing and k-wise
  // independent random variables via integer arithmetic without primes", 1996).
  struct Round {
    uint64_t multiplier, addend;
    uint32_t hash(uint32_t value) const { return static_cast<uint32_t>((multiplier * value + addend) >> 32); }
  };
  static constexpr size_t kRounds = 8;
  uint64_t size_;
  int low_bits_;
  uint32_t low_mask_;
  uint32_t high_mask_;
  std::array<Round, kRounds> rounds_;
};

}  // namespace furrow
