#include "furrow/train/sums.h"

#include <algorithm>
#include <array>

#include "furrow/plan/value_bytes.h"

namespace furrow::train {
namespace {

static_assert(Sums::kWords * sizeof(int64_t) == plan::kSumsBytes, "what plan counts is what travels");

using Limbs = std::array<int64_t, ExactSum::kLimbs>;
constexpr size_t kLimbs = ExactSum::kLimbs;

// The lower of two units, where -1 is none.
int first_of(int a, int b) { return a < 0 ? b : b < 0 ? a : std::min(a, b); }

ExactSum sum_at(std::span<const int64_t> words) {
  Limbs limbs;
  std::copy_n(words.begin(), kLimbs, limbs.begin());
  return ExactSum::from_limbs(limbs);
}

}  // namespace

void LossSums::add(const LossSums& other) {
  loss.add(other.loss);
  weight.add(other.weight);
  count += other.count;
  correct += other.correct;
}

void Sums::add(const Sums& other) {
  loss.add(other.loss);
  squares.add(other.squares);
  non_finite_unit = first_of(non_finite_unit, other.non_finite_unit);
  stop = std::max(stop, other.stop);
  ready += other.ready;
}

void Sums::write(std::span<int64_t, kWords> words) const {
  auto at = std::ranges::copy(loss.loss.limbs(), words.begin()).out;
  at = std::ranges::copy(loss.weight.limbs(), at).out;
  at = std::ranges::copy(squares.limbs(), at).out;
  const std::array<int64_t, 5> rest = {loss.count, loss.correct, non_finite_unit, stop, ready};
  std::ranges::copy(rest, at);
}

Sums Sums::read(std::span<const int64_t, kWords> words) {
  Sums sums;
  sums.loss.loss = sum_at(words);
  sums.loss.weight = sum_at(words.subspan<kLimbs>());
  sums.squares = sum_at(words.subspan<2 * kLimbs>());
  const std::span<const int64_t> rest = words.subspan<3 * kLimbs>();
  sums.loss.count = rest[0];
  sums.loss.correct = rest[1];
  sums.non_finite_unit = static_cast<int>(rest[2]);
  sums.stop = rest[3];
  sums.ready = rest[4];
  return sums;
}

}  // namespace furrow::train
