// 8-bit pixels to float32: (x / 255 - mean) / std, one mean and one std for all pixels of the training split.
//
// Computed as x * scale + shift in float32, two roundings, with scale = 1 / (255 std) and shift = -mean / std
// rounded once: the same bits on every machine, within 4 / std * 2^-24 of the formula.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "furrow/preprocess/preprocessor.h"

namespace furrow::preprocess {

// Exact sums over pixels; the order and grouping of add() change nothing.  Up to 2^40 pixels.
struct PixelSums {
  uint64_t count = 0;
  uint64_t sum = 0;
  uint64_t sum_of_squares = 0;

  void add(std::span<const uint8_t> pixels);
};

class ImageNormaliser : public Preprocessor {
 public:
  // REQUIRES: finite, std > 0.
  ImageNormaliser(double mean, double std);
  // Mean and standard deviation (of the population) from integer sums: the same bits on every machine. Pixels
  // that are all equal get std 1.  REQUIRES: count > 0.
  static ImageNormaliser fit(const PixelSums& sums);
  // State: "mean" and "std" of x / 255.
  static std::unique_ptr<Preprocessor> load(const State& state);

  State state() const override;
  double mean() const { return mean_; }
  double std() const { return std_; }
  float value(uint8_t pixel) const { return static_cast<float>(pixel) * scale_ + shift_; }
  // REQUIRES: out.size() == pixels.size().
  void apply(std::span<const uint8_t> pixels, std::span<float> out) const;

 private:
  double mean_, std_;
  float scale_, shift_;
};

}  // namespace furrow::preprocess
