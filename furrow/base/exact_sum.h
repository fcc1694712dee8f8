// Sums whose bits do not depend on the order or grouping of the terms.
// A superaccumulator over the whole range of double (Neal, "Fast exact summation using small and large
// superaccumulators", 2015): add exactly, round once.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace furrow {

// Not thread safe: one per thread, then merge.  Any number of terms up to 2^60.
class ExactSum {
 public:
  ExactSum();
  void add(double value);           // NaN and infinities are kept and win as in IEEE addition
  void add(const ExactSum& other);  // merging is exact as well
  void add_all(std::span<const float> values);
  void add_all(std::span<const double> values);
  double value() const;  // correctly rounded (nearest even)

  void add_squares(std::span<const float> values);  // adds each value^2 exactly: norms (sqrt of value())

  static constexpr int kLimbs = 70;
  // For checkpoints and collectives: a canonical form, equal sums have equal limbs.  Limb i holds 32 bits of
  // weight 2^(32 i - 1074), limb 68 the sign, limb 69 is 0, or 1, 2, 3 for +inf, -inf, NaN.  Merge by add,
  // never by limb.
  std::array<int64_t, kLimbs> limbs() const;
  // Error{data_loss} when they are not canonical.
  static ExactSum from_limbs(const std::array<int64_t, kLimbs>& limbs);

 private:
  void add_scaled(uint64_t magnitude, int position, bool negative);  // magnitude * 2^(position - 1074)
  void normalise();
  std::array<int64_t, kLimbs> limbs_;  // 32 bits of payload each, base 2^32
  int pending_ = 0;                    // adds since the last carry propagation
  double special_ = 0;                 // NaN or infinity seen
};

}  // namespace furrow
