#include "furrow/train/sums.h"

#include <algorithm>
#include <array>

#include "furrow/plan/value_bytes.h"

namespace furrow::train {
namespace {

static_assert(Sums::kWords * sizeof(int64_t) == plan::kSumsBytes, "what plan counts is what travels");

using Limbs = std::array<int64_t, ExactSum::kLimbs>;
constexpr size_t kSumWords = ExactSum::kLimbs / 2;  // of an exact sum
constexpr int kLimbBits = 32;
static_assert(ExactSum::kLimbs % 2 == 0);

// The lower of two units, where -1 is none.
int first_of(int a, int b) { return a < 0 ? b : b < 0 ? a : std::min(a, b); }

// Canonical limbs hold 32 bits each; the last two, a sign and one of four kinds, go into one word as well.
template <class Words>
Words write_sum(const ExactSum& sum, Words words) {
  const Limbs limbs = sum.limbs();
  size_t i = 0;
  for (; i + 2 < limbs.size(); i += 2) {
    *words++ = static_cast<int64_t>(static_cast<uint64_t>(limbs[i]) | static_cast<uint64_t>(limbs[i + 1])
                                                                          << kLimbBits);
  }
  *words++ = 4 * limbs[i] + limbs[i + 1];
  return words;
}

ExactSum read_sum(std::span<const int64_t> words) {
  Limbs limbs;
  size_t i = 0;
  for (; i + 2 < limbs.size(); i += 2) {
    const auto both = static_cast<uint64_t>(words[i / 2]);
    limbs[i] = static_cast<int64_t>(both & 0xFFFFFFFF);
    limbs[i + 1] = static_cast<int64_t>(both >> kLimbBits);
  }
  limbs[i] = words[i / 2] >> 2;
  limbs[i + 1] = words[i / 2] & 3;
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
  auto at = write_sum(loss.loss, words.begin());
  at = write_sum(loss.weight, at);
  at = write_sum(squares, at);
  const std::array<int64_t, 5> rest = {loss.count, loss.correct, non_finite_unit, stop, ready};
  std::ranges::copy(rest, at);
}

Sums Sums::read(std::span<const int64_t, kWords> words) {
  Sums sums;
  sums.loss.loss = read_sum(words);
  sums.loss.weight = read_sum(words.subspan<kSumWords>());
  sums.squares = read_sum(words.subspan<2 * kSumWords>());
  const std::span<const int64_t> rest = words.subspan<3 * kSumWords>();
  sums.loss.count = rest[0];
  sums.loss.correct = rest[1];
  sums.non_finite_unit = static_cast<int>(rest[2]);
  sums.stop = rest[3];
  sums.ready = rest[4];
  return sums;
}

}  // namespace furrow::train
