#include "furrow/base/rng.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

#include "furrow/base/error.h"

namespace furrow {
namespace {

constexpr uint32_t low32(uint64_t value) { return static_cast<uint32_t>(value); }
constexpr uint32_t high32(uint64_t value) { return static_cast<uint32_t>(value >> 32); }

// The four words that hold elements 4 * group .. 4 * group + 3 of a fill.
PhiloxBlock group_words(const Philox& stream, uint64_t group) {
  return stream.block(0, high32(group), low32(group));
}

struct NormalPair {
  float first, second;
};

// Box and Muller, "A note on the generation of random normal deviates", 1958.
NormalPair box_muller(uint32_t a, uint32_t b, double mean, double std) {
  const double radius = std::sqrt(-2.0 * std::log((static_cast<double>(a) + 1.0) * 0x1p-32));
  const double angle = 2.0 * std::numbers::pi * (static_cast<double>(b) * 0x1p-32);
  return {static_cast<float>(mean + std * radius * std::cos(angle)),
          static_cast<float>(mean + std * radius * std::sin(angle))};
}

// Calls fill(words, index in out of word 0 (may be negative)) for each group of four that touches the range.
template <class Emit>
void for_each_group(const Philox& stream, uint64_t offset, size_t count, Emit emit) {
  if (count == 0) return;
  const uint64_t last = (offset + count - 1) / 4;
  for (uint64_t group = offset / 4; group <= last; ++group) {
    emit(group_words(stream, group), static_cast<int64_t>(group * 4 - offset));
  }
}

void store(std::span<float> out, int64_t index, float value) {
  if (index >= 0 && index < static_cast<int64_t>(out.size())) out[static_cast<size_t>(index)] = value;
}

}  // namespace

PhiloxBlock philox4x32(PhiloxBlock counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = kMultiplier0 * counter[0];
    const uint64_t p1 = kMultiplier1 * counter[2];
    counter = {high32(p1) ^ counter[1] ^ key[0], low32(p1), high32(p0) ^ counter[3] ^ key[1], low32(p0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

uint64_t stable_hash(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return hash;
}

Philox::Philox(uint64_t seed, RandomPurpose purpose, std::string_view stream) {
  const uint64_t hash = stable_hash(stream);
  const PhiloxBlock mixed =
      philox4x32({low32(hash), high32(hash), static_cast<uint32_t>(purpose), 0}, {low32(seed), high32(seed)});
  key_ = {mixed[0], mixed[1]};
}

PhiloxBlock philox_counter(uint64_t step, uint64_t sample, uint32_t block) {
  const uint32_t high16_sample = high32(sample) & 0xFFFFu;
  const uint32_t high16_step = high32(step) & 0xFFFFu;
  return {block, low32(sample), high16_sample << 16 | high16_step, low32(step)};
}

PhiloxBlock Philox::block(uint64_t step, uint64_t sample, uint32_t block) const {
  return philox4x32(philox_counter(step, sample, block), key_);
}

void fill_uniform(const Philox& stream, float low, float high, uint64_t offset, std::span<float> out) {
  const float below_high = high > low ? std::nextafter(high, low) : low;
  const auto value = [&](uint32_t word) {
    const double exact = low + (static_cast<double>(high) - low) * uniform01(word);
    return std::min(static_cast<float>(exact), below_high);
  };
  for_each_group(stream, offset, out.size(), [&](const PhiloxBlock& words, int64_t first) {
    for (int lane = 0; lane < 4; ++lane) store(out, first + lane, value(words[static_cast<size_t>(lane)]));
  });
}

void fill_normal(const Philox& stream, float mean, float std, uint64_t offset, std::span<float> out) {
  for_each_group(stream, offset, out.size(), [&](const PhiloxBlock& words, int64_t first) {
    const NormalPair low = box_muller(words[0], words[1], mean, std);
    const NormalPair high = box_muller(words[2], words[3], mean, std);
    store(out, first, low.first);
    store(out, first + 1, low.second);
    store(out, first + 2, high.first);
    store(out, first + 3, high.second);
  });
}

KeyedPermutation::KeyedPermutation(uint64_t seed, uint64_t epoch, uint64_t size) : size_(size) {
  FURROW_CHECK(size > 0, "a permutation of nothing");
  // Halves of less than three bits have too few functions to be even.
  const int bits = std::max(6, static_cast<int>(std::bit_width(size - 1)));
  low_bits_ = (bits + 1) / 2;
  low_mask_ = static_cast<uint32_t>((uint64_t{1} << low_bits_) - 1);
  high_mask_ = static_cast<uint32_t>((uint64_t{1} << (bits - low_bits_)) - 1);
  const Philox stream(seed, RandomPurpose::kShuffle, "order");
  for (uint32_t i = 0; i < kRounds; ++i) {
    const PhiloxBlock words = philox4x32({i, low32(epoch), high32(epoch), 0}, stream.key());
    rounds_[i] = {uint64_t{words[1]} << 32 | words[0], uint64_t{words[3]} << 32 | words[2]};
  }
}

uint64_t KeyedPermutation::operator()(uint64_t index) const {
  FURROW_CHECK(index < size_, "index outside the permutation");
  // Cycle walking: the domain is the next power of two (at least 64), so fewer than two passes are expected.
  do {
    auto low = static_cast<uint32_t>(index) & low_mask_;
    auto high = static_cast<uint32_t>(index >> low_bits_);
    for (size_t round = 0; round < kRounds; round += 2) {
      high ^= rounds_[round].hash(low) & high_mask_;
      low ^= rounds_[round + 1].hash(high) & low_mask_;
    }
    index = uint64_t{high} << low_bits_ | low;
  } while (index >= size_);
  return index;
}

}  // namespace furrow
