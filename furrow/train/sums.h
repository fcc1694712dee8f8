// Exact sums over microbatches and ranks: neither their number nor their order shows in a result. Torch-free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "furrow/base/exact_sum.h"

namespace furrow::train {

// Over what an objective counts: samples or tokens.
struct LossSums {
  ExactSum loss;
  ExactSum weight;  // what a mean divides by: the count, or the sum of the weights of classes
  int64_t count = 0;
  int64_t correct = 0;  // arg max equals target

  void add(const LossSums& other);
  // 1 where nothing weighs anything, so that its gradient stays 0.
  double divisor() const { return weight.value() > 0 ? weight.value() : 1; }
  double mean() const { return loss.value() / divisor(); }
  double accuracy() const {
    return count > 0 ? static_cast<double>(correct) / static_cast<double>(count) : 0;
  }
};

// What `measure` sums up on a rank, and `reduce_scalar` over all ranks: the step's figures and the ranks'
// votes.
struct Sums {
  LossSums loss;
  ExactSum squares;          // of the gradients
  int non_finite_unit = -1;  // the first unit whose gradient is not finite
  int64_t stop =
      0;  // why to stop after this step: the largest CancelToken::reason() of the ranks, 0 for none
  int64_t ready = 0;  // ranks that said RunInputs::ready

  void add(const Sums& other);

  static constexpr size_t kWords = 3 * (ExactSum::kLimbs / 2) + 5;  // as it travels, two limbs in a word
  void write(std::span<int64_t, kWords> words) const;
  static Sums read(std::span<const int64_t, kWords> words);  // Error{data_loss}: limbs that are not canonical
};

}  // namespace furrow::train
