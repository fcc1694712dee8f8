// 8-bit pixels to float32: (x / 255 - mean) / std, one mean and one std per channel over the training split.
//
// Computed as x * scale + shift in float32, two roundings, with scale = 1 / (255 std) and shift = -mean / std
// rounded once: the same bits on every machine, within 4 / std * 2^-24 of the formula.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "furrow/preprocess/preprocessor.h"

namespace furrow::preprocess {

// Exact sums over pixels; the order and grouping of add() change nothing.  Up to 2^40 pixels.
struct PixelSums {
  uint64_t count = 0;
  uint64_t sum = 0;
  uint64_t sum_of_squares = 0;

  void add(std::span<const uint8_t> pixels);
  void add(const PixelSums& other) {
    count += other.count;
    sum += other.sum;
    sum_of_squares += other.sum_of_squares;
  }
};

class ImageNormaliser : public Preprocessor {
 public:
  // One channel.  REQUIRES: finite, std > 0.
  ImageNormaliser(double mean, double std);
  // REQUIRES: at least one channel, as many deviations as means, finite, deviations > 0.
  ImageNormaliser(std::vector<double> means, std::vector<double> stds);
  // Mean and standard deviation (of the population) of each channel from integer sums: the same bits on every
  // machine.  A channel whose pixels are all equal gets std 1.  REQUIRES: counts > 0.
  static ImageNormaliser fit(std::span<const PixelSums> channels);
  static ImageNormaliser fit(const PixelSums& sums) { return fit(std::span(&sums, 1)); }
  // State: "mean" and "std" of x / 255, a number per channel, separated by one space.
  static std::unique_ptr<Preprocessor> load(const State& state);

  State state() const override;
  size_t channels() const { return means_.size(); }
  double mean(size_t channel = 0) const { return means_[channel]; }
  double std(size_t channel = 0) const { return stds_[channel]; }
  float value(uint8_t pixel, size_t channel = 0) const {
    return static_cast<float>(pixel) * scales_[channel] + shifts_[channel];
  }
  // One image [channels, ...]: the channels one after the other, each of the same size.  REQUIRES: out.size()
  // == pixels.size(), a multiple of channels().
  void apply(std::span<const uint8_t> pixels, std::span<float> out) const;

 private:
  std::vector<double> means_, stds_;
  std::vector<float> scales_, shifts_;
};

}  // namespace furrow::preprocess
