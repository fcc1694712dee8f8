#include "furrow/preprocess/image_normaliser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "furrow/base/error.h"

namespace furrow::preprocess {
namespace {

std::vector<uint8_t> pixels(size_t count) {
  std::vector<uint8_t> all(count);
  for (size_t i = 0; i < count; ++i) all[i] = static_cast<uint8_t>(i * i * 31 >> 3);
  return all;
}

PixelSums sums_of(std::span<const uint8_t> all) {
  PixelSums sums;
  sums.add(all);
  return sums;
}

TEST(PixelSums, AreExactAcrossBlocks) {
  const std::vector<uint8_t> white(200000, 255);
  const PixelSums sums = sums_of(white);
  EXPECT_EQ(sums.count, 200000u);
  EXPECT_EQ(sums.sum, 200000u * 255u);
  EXPECT_EQ(sums.sum_of_squares, 200000ull * 255 * 255);
}

TEST(PixelSums, DoNotDependOnGrouping) {
  const std::vector<uint8_t> all = pixels(10007);
  const PixelSums whole = sums_of(all);
  for (const size_t piece : {1, 7, 784, 5000}) {
    PixelSums parts;
    for (size_t at = 0; at < all.size(); at += piece) {
      parts.add(std::span(all).subspan(at, std::min(piece, all.size() - at)));
    }
    EXPECT_EQ(parts.sum, whole.sum);
    EXPECT_EQ(parts.sum_of_squares, whole.sum_of_squares);
  }
}

TEST(ImageNormaliser, FitsMeanAndDeviation) {
  const std::vector<uint8_t> all = pixels(5000);
  long double mean = 0, variance = 0;
  for (const uint8_t pixel : all) mean += pixel / 255.0L / 5000;
  for (const uint8_t pixel : all) variance += (pixel / 255.0L - mean) * (pixel / 255.0L - mean) / 5000;
  const ImageNormaliser fitted = ImageNormaliser::fit(sums_of(all));
  EXPECT_DOUBLE_EQ(fitted.mean(), static_cast<double>(mean));
  EXPECT_DOUBLE_EQ(fitted.std(), static_cast<double>(std::sqrt(variance)));
}

TEST(ImageNormaliser, EqualPixelsGetDeviationOne) {
  const std::vector<uint8_t> grey(100, 51);
  const ImageNormaliser fitted = ImageNormaliser::fit(sums_of(grey));
  EXPECT_EQ(fitted.std(), 1.0);
  EXPECT_EQ(fitted.mean(), 0.2);
  EXPECT_THROW(ImageNormaliser::fit(PixelSums()), Error);
}

std::vector<float> table(const ImageNormaliser& normaliser) {
  std::vector<float> values;
  for (int pixel = 0; pixel < 256; ++pixel) values.push_back(normaliser.value(static_cast<uint8_t>(pixel)));
  return values;
}

TEST(ImageNormaliser, IsTheFormulaWithinItsBound) {
  for (const auto& [mean, std] : {std::pair{0.2860, 0.3530}, {0.0, 1.0}, {0.5, 0.01}, {0.9, 0.001}}) {
    const ImageNormaliser normaliser(mean, std);
    for (int pixel = 0; pixel < 256; ++pixel) {
      EXPECT_NEAR(normaliser.value(static_cast<uint8_t>(pixel)), (pixel / 255.0 - mean) / std,
                  4 / std * 0x1p-24);
    }
  }
}

TEST(ImageNormaliser, AppliesTheSameBitsToEveryPixel) {
  const ImageNormaliser normaliser(0.2860, 0.3530);
  for (const size_t count : {0, 1, 7, 8, 9, 783, 784}) {
    const std::vector<uint8_t> all = pixels(count);
    std::vector<float> out(count, -99);
    normaliser.apply(all, out);
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(out[i], normaliser.value(all[i]));
  }
  std::vector<float> out(3);
  EXPECT_THROW(normaliser.apply(pixels(4), out), Error);
}

TEST(ImageNormaliser, IsASavedValue) {
  const ImageNormaliser fitted = ImageNormaliser::fit(sums_of(pixels(777)));
  const auto loaded = load_as<ImageNormaliser>(fitted.state());
  EXPECT_EQ(table(*loaded), table(fitted));
  EXPECT_EQ(loaded->state(), fitted.state());
  EXPECT_NE(table(ImageNormaliser::fit(sums_of(pixels(776)))), table(fitted));  // negative control
}

TEST(ImageNormaliser, EachChannelHasItsOwnValues) {
  const std::vector<uint8_t> all = pixels(600);
  std::vector<PixelSums> sums(3);
  for (size_t c = 0; c < 3; ++c) sums[c].add(std::span(all).subspan(c * 200, 200));
  const ImageNormaliser fitted = ImageNormaliser::fit(sums);
  ASSERT_EQ(fitted.channels(), 3u);
  std::vector<float> out(600);
  fitted.apply(all, out);
  for (size_t c = 0; c < 3; ++c) {
    const ImageNormaliser alone = ImageNormaliser::fit(sums[c]);
    EXPECT_EQ(fitted.mean(c), alone.mean());
    for (size_t i = 0; i < 200; ++i) EXPECT_EQ(out[c * 200 + i], alone.value(all[c * 200 + i]));
  }
  const auto loaded = load_as<ImageNormaliser>(fitted.state());
  std::vector<float> again(600);
  loaded->apply(all, again);
  EXPECT_EQ(again, out);
  std::vector<float> odd(601);
  EXPECT_THROW(fitted.apply(pixels(601), odd), Error);
}

TEST(ImageNormaliser, DamagedStatesAreRefused) {
  const State good{{"kind", "image"}, {"mean", "0.5"}, {"std", "0.25"}};
  EXPECT_NO_THROW(load(good));
  for (const char* key : {"mean", "std"}) {
    for (const char* value : {"", "x", "0.5x", " 0.5", "nan", "inf", "1e999", "0.5 0.5", "0.5  0.5"}) {
      State state = good;
      state[key] = value;
      EXPECT_THROW(load(state), Error) << key << " = " << value;
    }
    State state = good;
    state.erase(key);
    EXPECT_THROW(load(state), Error);
  }
  for (const char* value : {"0", "-1"})
    EXPECT_THROW(load({{"kind", "image"}, {"mean", "0"}, {"std", value}}), Error);
}

}  // namespace
}  // namespace furrow::preprocess
