#include "furrow/base/exact_sum.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "furrow/base/error.h"

namespace furrow {
namespace {

constexpr int kSignLimb = ExactSum::kLimbs - 2;
constexpr int kSpecialLimb = ExactSum::kLimbs - 1;
constexpr int kLowestExponent = -1074;  // weight of bit 0 of limb 0
constexpr int kMaxPending = 1 << 30;    // each add changes a limb by less than 2^32

// Buckets by exponent for floats: integers of equal weight are summed plainly and carried over once in a
// while.
constexpr size_t kFloatExponents = 256;
constexpr size_t kWays = 4;  // neighbours often share an exponent: spread them over independent chains

double combine_special(double a, double b) { return a == 0 ? b : b == 0 ? a : a + b; }

struct FloatParts {
  uint32_t magnitude;
  uint32_t exponent;  // of the lowest bit: 2^(exponent - 150), exponent >= 1
  bool negative;
};

FloatParts split(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t exponent = bits >> 23 & 0xFF;
  const uint32_t fraction = bits & 0x7FFFFF;
  return {exponent == 0 ? fraction : fraction | 0x800000, exponent == 0 ? 1 : exponent, bits >> 31 != 0};
}

// Bits [position, position + 64) of a little-endian number in 32-bit limbs.
uint64_t bits_from(const std::array<int64_t, ExactSum::kLimbs>& limbs, int position) {
  unsigned __int128 window = 0;
  const int limb = position / 32;
  for (int i = 3; i >= 0; --i) {
    window <<= 32;
    if (limb + i <= kSignLimb) window |= static_cast<uint32_t>(limbs[static_cast<size_t>(limb + i)]);
  }
  return static_cast<uint64_t>(window >> (position % 32));
}

bool any_bit_below(const std::array<int64_t, ExactSum::kLimbs>& limbs, int position) {
  for (int i = 0; i < position / 32; ++i) {
    if (limbs[static_cast<size_t>(i)] != 0) return true;
  }
  const auto last = static_cast<uint64_t>(limbs[static_cast<size_t>(position / 32)]);
  return (last & ((uint64_t{1} << position % 32) - 1)) != 0;
}

// The nearest double of a non-negative canonical number, ties to even.
double round_to_double(const std::array<int64_t, ExactSum::kLimbs>& limbs) {
  int top = kSignLimb;
  while (top >= 0 && limbs[static_cast<size_t>(top)] == 0) --top;
  if (top < 0) return 0.0;
  const int width = static_cast<int>(std::bit_width(static_cast<uint64_t>(limbs[static_cast<size_t>(top)])));
  const int highest = 32 * top + width - 1;
  if (highest < 53) return std::ldexp(static_cast<double>(bits_from(limbs, 0)), kLowestExponent);
  const int lowest = highest - 52;
  uint64_t mantissa = bits_from(limbs, lowest) & ((uint64_t{1} << 53) - 1);
  const bool half = (bits_from(limbs, lowest - 1) & 1) != 0;
  if (half && ((mantissa & 1) != 0 || any_bit_below(limbs, lowest - 1))) ++mantissa;
  return std::ldexp(static_cast<double>(mantissa), lowest + kLowestExponent);
}

}  // namespace

ExactSum::ExactSum() : limbs_{} {}

void ExactSum::add_scaled(uint64_t magnitude, int position, bool negative) {
  const unsigned __int128 wide = static_cast<unsigned __int128>(magnitude) << (position & 31);
  const auto limb = static_cast<size_t>(position >> 5);
  const int64_t sign = negative ? -1 : 1;
  limbs_[limb] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide));
  limbs_[limb + 1] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide >> 32));
  limbs_[limb + 2] += sign * static_cast<int64_t>(static_cast<uint32_t>(wide >> 64));
  if (++pending_ >= kMaxPending) normalise();
}

void ExactSum::add(double value) {
  const auto bits = std::bit_cast<uint64_t>(value);
  const int exponent = static_cast<int>(bits >> 52 & 0x7FF);
  const uint64_t fraction = bits & ((uint64_t{1} << 52) - 1);
  if (exponent == 0x7FF) {
    special_ = combine_special(special_, value);
    return;
  }
  if (exponent == 0) {
    add_scaled(fraction, 0, bits >> 63 != 0);
  } else {
    add_scaled(fraction | uint64_t{1} << 52, exponent - 1, bits >> 63 != 0);
  }
}

void ExactSum::add(const ExactSum& other) {
  ExactSum canonical = other;
  canonical.normalise();
  normalise();
  for (size_t i = 0; i < kSpecialLimb; ++i) limbs_[i] += canonical.limbs_[i];
  pending_ = 1;
  special_ = combine_special(special_, other.special_);
}

void ExactSum::add_all(std::span<const double> values) {
  for (const double value : values) add(value);
}

void ExactSum::add_all(std::span<const float> values) {
  constexpr size_t kFew = 512;
  if (values.size() < kFew) {
    for (const float value : values) add(value);
    return;
  }
  // 24-bit magnitudes: 2^39 of them fit into 63 bits, so the buckets never overflow here.
  std::vector<int64_t> buckets(kWays * kFloatExponents, 0);
  for (size_t i = 0; i < values.size(); ++i) {
    const FloatParts parts = split(values[i]);
    if (parts.exponent == 255) {
      special_ = combine_special(special_, values[i]);
      continue;
    }
    const int64_t sign = -static_cast<int64_t>(parts.negative);  // 0 or -1: no branch on a random sign
    const int64_t term = (static_cast<int64_t>(parts.magnitude) ^ sign) - sign;
    buckets[(i % kWays) * kFloatExponents + parts.exponent] += term;
  }
  for (size_t i = 0; i < buckets.size(); ++i) {
    if (buckets[i] == 0) continue;
    const auto magnitude = static_cast<uint64_t>(std::abs(buckets[i]));
    add_scaled(magnitude, static_cast<int>(i % kFloatExponents) - 150 - kLowestExponent, buckets[i] < 0);
  }
}

void ExactSum::add_squares(std::span<const float> values) {
  constexpr size_t kBlock = kWays << 16;  // 48-bit squares: 2^16 of them fit into a bucket
  std::array<uint64_t, kWays * kFloatExponents> buckets;
  for (size_t begin = 0; begin < values.size(); begin += kBlock) {
    const auto block = values.subspan(begin, std::min(kBlock, values.size() - begin));
    buckets.fill(0);
    for (size_t i = 0; i < block.size(); ++i) {
      const FloatParts parts = split(block[i]);
      if (parts.exponent == 255) {
        special_ = combine_special(special_, static_cast<double>(block[i]) * block[i]);
        continue;
      }
      buckets[(i % kWays) * kFloatExponents + parts.exponent] += uint64_t{parts.magnitude} * parts.magnitude;
    }
    for (size_t i = 0; i < buckets.size(); ++i) {
      const int exponent = static_cast<int>(i % kFloatExponents);
      if (buckets[i] != 0) add_scaled(buckets[i], 2 * (exponent - 150) - kLowestExponent, false);
    }
  }
}

void ExactSum::normalise() {
  int64_t carry = 0;
  for (size_t i = 0; i < kSignLimb; ++i) {
    const int64_t sum = limbs_[i] + carry;
    carry = sum >> 32;
    limbs_[i] = sum & 0xFFFFFFFF;
  }
  limbs_[kSignLimb] += carry;
  pending_ = 0;
}

double ExactSum::value() const {
  if (special_ != 0) return special_;  // NaN compares unequal to 0 as well
  ExactSum canonical = *this;
  canonical.normalise();
  const bool negative = canonical.limbs_[kSignLimb] < 0;
  if (negative) {
    for (size_t i = 0; i < kSpecialLimb; ++i) canonical.limbs_[i] = -canonical.limbs_[i];
    canonical.normalise();
  }
  const double magnitude = round_to_double(canonical.limbs_);
  return negative ? -magnitude : magnitude;
}

std::array<int64_t, ExactSum::kLimbs> ExactSum::limbs() const {
  ExactSum canonical = *this;
  canonical.normalise();
  if (std::isnan(special_)) {
    canonical.limbs_[kSpecialLimb] = 3;
  } else if (special_ != 0) {
    canonical.limbs_[kSpecialLimb] = special_ > 0 ? 1 : 2;
  }
  return canonical.limbs_;
}

ExactSum ExactSum::from_limbs(const std::array<int64_t, kLimbs>& limbs) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < kSignLimb; ++i) {
    if (limbs[i] < 0 || limbs[i] > 0xFFFFFFFF)
      throw Error(ErrorCode::kDataLoss, "limbs of an exact sum are damaged");
  }
  if (limbs[kSignLimb] < -kMaxPending || limbs[kSignLimb] > kMaxPending) {
    throw Error(ErrorCode::kDataLoss, "the sign limb of an exact sum is damaged");
  }
  ExactSum sum;
  sum.limbs_ = limbs;
  sum.limbs_[kSpecialLimb] = 0;
  sum.pending_ = 1;
  switch (limbs[kSpecialLimb]) {
    case 1:
      sum.special_ = kInfinity;
      break;
    case 2:
      sum.special_ = -kInfinity;
      break;
    case 3:
      sum.special_ = std::numeric_limits<double>::quiet_NaN();
      break;
    default:
      break;
  }
  return sum;
}

}  // namespace furrow
