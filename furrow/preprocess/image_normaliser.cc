#include "furrow/preprocess/image_normaliser.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "furrow/base/convert.h"

namespace furrow::preprocess {
namespace {

constexpr size_t kSumBlock = 65536;  // 255^2 * 65536 < 2^32

}  // namespace

void PixelSums::add(std::span<const uint8_t> pixels) {
  count += pixels.size();
  while (!pixels.empty()) {
    const auto block = pixels.first(std::min(pixels.size(), kSumBlock));
    uint32_t block_sum = 0, block_squares = 0;
    for (const uint32_t pixel : block) {
      block_sum += pixel;
      block_squares += pixel * pixel;
    }
    sum += block_sum;
    sum_of_squares += block_squares;
    pixels = pixels.subspan(block.size());
  }
}

namespace {

std::string to_text(const std::vector<double>& numbers) { return fmt::format("{}", fmt::join(numbers, " ")); }

}  // namespace

ImageNormaliser::ImageNormaliser(double mean, double std)
    : ImageNormaliser(std::vector<double>{mean}, std::vector<double>{std}) {}

ImageNormaliser::ImageNormaliser(std::vector<double> means, std::vector<double> stds)
    : means_(std::move(means)), stds_(std::move(stds)) {
  FURROW_CHECK(!means_.empty() && means_.size() == stds_.size(), "a mean and a deviation per channel");
  for (size_t c = 0; c < means_.size(); ++c) {
    const double mean = means_[c], std = stds_[c];
    FURROW_CHECK(std::isfinite(mean) && std::isfinite(std) && std > 0, "not a mean and a standard deviation");
    scales_.push_back(static_cast<float>(1.0 / (255.0 * std)));
    shifts_.push_back(static_cast<float>(-mean / std));
  }
}

ImageNormaliser ImageNormaliser::fit(std::span<const PixelSums> channels) {
  std::vector<double> means, stds;
  for (const PixelSums& sums : channels) {
    FURROW_CHECK(sums.count > 0, "no pixels to fit");
    using Wide = unsigned __int128;
    const double scale = 255.0 * static_cast<double>(sums.count);
    const Wide spread =
        Wide{sums.count} * sums.sum_of_squares - Wide{sums.sum} * sums.sum;  // count^2 * variance
    means.push_back(static_cast<double>(sums.sum) / scale);
    stds.push_back(spread == 0 ? 1.0 : std::sqrt(static_cast<double>(spread)) / scale);
  }
  return ImageNormaliser(std::move(means), std::move(stds));
}

std::unique_ptr<Preprocessor> ImageNormaliser::load(const State& state) {
  std::vector<double> means = state_numbers(state, "mean"), stds = state_numbers(state, "std");
  if (means.size() != stds.size()) {
    throw Error(ErrorCode::kDataLoss, fmt::format("fitted preprocessing: 'mean' has {} channels and 'std' {}",
                                                  means.size(), stds.size()));
  }
  for (const double std : stds) {
    if (std > 0) continue;
    throw Error(ErrorCode::kDataLoss, fmt::format("fitted preprocessing: 'std' is {}, not above 0", std));
  }
  return std::make_unique<ImageNormaliser>(std::move(means), std::move(stds));
}

State ImageNormaliser::state() const {
  return {{"kind", "image"}, {"mean", to_text(means_)}, {"std", to_text(stds_)}};
}

void ImageNormaliser::apply(std::span<const uint8_t> pixels, std::span<float> out) const {
  FURROW_CHECK(out.size() == pixels.size(), "an output of another size");
  const size_t plane = pixels.size() / channels();
  FURROW_CHECK(plane * channels() == pixels.size(), "an image of other channels");
  for (size_t c = 0; c < channels(); ++c) {
    scale_bytes(pixels.subspan(c * plane, plane), scales_[c], shifts_[c], out.subspan(c * plane, plane));
  }
}

}  // namespace furrow::preprocess
