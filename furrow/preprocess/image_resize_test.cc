#include "furrow/preprocess/image_resize.h"

#include <gtest/gtest.h>

#include "furrow/base/error.h"

namespace furrow::preprocess {
namespace {

RgbImage made_up(int64_t height, int64_t width) {
  RgbImage image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3))};
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = static_cast<uint8_t>(i * 37 + i / 11);
  return image;
}

std::vector<uint8_t> resized(const RgbImage& image, int64_t size) {
  std::vector<uint8_t> out(static_cast<size_t>(3 * size * size));
  resize_and_crop(image, size, out);
  return out;
}

TEST(Resize, TheSameSizeIsACropOfPlanes) {
  const RgbImage image = made_up(6, 10);
  const std::vector<uint8_t> out = resized(image, 6);
  for (size_t c = 0; c < 3; ++c) {
    for (size_t y = 0; y < 6; ++y) {
      for (size_t x = 0; x < 6; ++x) {
        EXPECT_EQ(out[(c * 6 + y) * 6 + x], image.pixels[(y * 10 + x + 2) * 3 + c]);
      }
    }
  }
}

TEST(Resize, OneColourStaysOneColour) {
  for (const auto& [height, width] : {std::pair<int64_t, int64_t>{1, 1}, {3, 200}, {17, 5}, {300, 299}}) {
    RgbImage image{height, width, std::vector<uint8_t>(static_cast<size_t>(height * width * 3), 201)};
    for (const int64_t size : {1, 7, 64}) {
      for (const uint8_t pixel : resized(image, size)) ASSERT_EQ(pixel, 201);
    }
  }
}

TEST(Resize, HalvingWeighsNeighboursAsATriangle) {
  // One row of 4, then halved: output 0 has centre 1 and support 2, over inputs 0 to 2.
  RgbImage image{4, 4, std::vector<uint8_t>(48, 0)};
  for (size_t y = 0; y < 4; ++y) image.pixels[y * 12] = 112;  // red of column 0
  const std::vector<uint8_t> out = resized(image, 2);
  // Weights of inputs 0, 1, 2: 0.75, 0.75, 0.25 (and 0.25 outside): 112 * 0.75 / 1.75 = 48.
  EXPECT_EQ(out, (std::vector<uint8_t>{48, 0, 48, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(Resize, OtherSizesAreRefused) {
  std::vector<uint8_t> out(11);
  EXPECT_THROW(resize_and_crop(made_up(4, 4), 2, out), Error);
  EXPECT_THROW(resize_and_crop(RgbImage{}, 2, out), Error);
}

}  // namespace
}  // namespace furrow::preprocess
