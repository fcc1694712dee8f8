#include "furrow/preprocess/image_normaliser.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

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

ImageNormaliser::ImageNormaliser(double mean, double std)
    : mean_(mean),
      std_(std),
      scale_(static_cast<float>(1.0 / (255.0 * std))),
      shift_(static_cast<float>(-mean / std)) {
  FURROW_CHECK(std::isfinite(mean) && std::isfinite(std) && std > 0, "not a mean and a standard deviation");
}

ImageNormaliser ImageNormaliser::fit(const PixelSums& sums) {
  FURROW_CHECK(sums.count > 0, "no pixels to fit");
  using Wide = unsigned __int128;
  const double scale = 255.0 * static_cast<double>(sums.count);
  const Wide spread =
      Wide{sums.count} * sums.sum_of_squares - Wide{sums.sum} * sums.sum;  // count^2 * variance
  const double std = std::sqrt(static_cast<double>(spread)) / scale;
  return ImageNormaliser(static_cast<double>(sums.sum) / scale, spread == 0 ? 1.0 : std);
}

std::unique_ptr<Preprocessor> ImageNormaliser::load(const State& state) {
  const double mean = state_number(state, "mean");
  const double std = state_number(state, "std");
  if (std <= 0) {
    throw Error(ErrorCode::kDataLoss, fmt::format("fitted preprocessing: 'std' is {}, not above 0", std));
  }
  return std::make_unique<ImageNormaliser>(mean, std);
}

State ImageNormaliser::state() const {
  return {{"kind", "image"}, {"mean", fmt::format("{}", mean_)}, {"std", fmt::format("{}", std_)}};
}

// Through local copies, so that the compiler sees that nothing aliases and vectorises.
void ImageNormaliser::apply(std::span<const uint8_t> pixels, std::span<float> out) const {
  FURROW_CHECK(out.size() == pixels.size(), "an output of another size");
  const float scale = scale_, shift = shift_;
  const uint8_t* const from = pixels.data();
  float* const to = out.data();
  for (size_t i = 0; i < pixels.size(); ++i) to[i] = static_cast<float>(from[i]) * scale + shift;
}

}  // namespace furrow::preprocess
