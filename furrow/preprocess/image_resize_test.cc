#include "furrow/preprocess/image_resize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

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

// The sums of the definition, one after the other: what vectors give, bit for bit.
std::vector<uint8_t> one_by_one(const RgbImage& image, int64_t size) {
  const double shorter = static_cast<double>(std::min(image.height, image.width));
  const auto weights_of = [&](int64_t length, int64_t out) {
    const int64_t scaled =
        std::max<int64_t>(size, std::llround(static_cast<double>(length * size) / shorter));
    const double scale = static_cast<double>(length) / static_cast<double>(scaled);
    const double support = std::max(scale, 1.0);
    const double centre = (static_cast<double>((scaled - size) / 2 + out) + 0.5) * scale;
    std::vector<std::pair<int64_t, double>> weights;
    double sum = 0;
    for (int64_t at = std::max<int64_t>(0, static_cast<int64_t>(std::floor(centre - support + 0.5)));
         at < std::min<int64_t>(length, static_cast<int64_t>(std::floor(centre + support + 0.5))); ++at) {
      weights.emplace_back(at,
                           std::max(0.0, 1.0 - std::abs(static_cast<double>(at) + 0.5 - centre) / support));
      sum += weights.back().second;
    }
    for (auto& [at, weight] : weights) weight /= sum;
    return weights;
  };
  std::vector<uint8_t> out;
  for (int64_t i = 0; i < 3 * size * size; ++i) {
    float sum = 0;
    for (const auto& [y, down] : weights_of(image.height, i / size % size)) {
      float across = 0;
      for (const auto& [x, weight] : weights_of(image.width, i % size)) {
        const auto at = static_cast<size_t>((y * image.width + x) * 3 + i / size / size);
        across += static_cast<float>(weight) * static_cast<float>(image.pixels[at]);
      }
      sum += static_cast<float>(down) * across;
    }
    out.push_back(static_cast<uint8_t>(std::clamp(sum + 0.5f, 0.0f, 255.0f)));
  }
  return out;
}

TEST(Resize, VectorsEqualSumsOneByOne) {
  for (const auto& [height, width] :
       {std::pair<int64_t, int64_t>{1, 1}, {5, 4}, {16, 16}, {61, 90}, {90, 61}, {33, 200}}) {
    for (const int64_t size : {1, 3, 16, 37}) {
      const RgbImage image = made_up(height, width);
      EXPECT_EQ(resized(image, size), one_by_one(image, size)) << height << " x " << width << " to " << size;
    }
  }
}

// As torchvision 0.21 has it: the longer side is cut off, the middle rounded half to even.
TEST(Resize, ThenCropIsTorchvisions) {
  EXPECT_EQ(resize_then_crop(500, 375, 256, 224), (Scaling{{0, 0, 500, 375}, 341, 256, 58, 16}));
  EXPECT_EQ(resize_then_crop(375, 500, 256, 224), (Scaling{{0, 0, 375, 500}, 256, 341, 16, 58}));
  EXPECT_EQ(resize_then_crop(100, 103, 96, 95), (Scaling{{0, 0, 100, 103}, 96, 98, 0, 2}));
  EXPECT_EQ(resize_then_crop(7, 7, 8, 5), (Scaling{{0, 0, 7, 7}, 8, 8, 2, 2}));
  // Pictures of the same sides are the same either way, but for the rounding of the longer one.
  EXPECT_EQ(resize_then_crop(48, 64, 24, 24), rounded_then_cropped(48, 64, 24));
  EXPECT_NE(resize_then_crop(100, 103, 96, 96), rounded_then_cropped(100, 103, 96));
}

TEST(Resize, ARegionIsAnImageOfItsOwn) {
  const RgbImage image = made_up(31, 44);
  for (const Region& region : {Region{0, 0, 31, 44}, {3, 5, 20, 9}, {30, 43, 1, 1}, {11, 0, 20, 44}}) {
    RgbImage cut{region.height, region.width, {}};
    for (int64_t y = region.top; y < region.top + region.height; ++y) {
      const auto row = image.pixels.begin() + (y * 44 + region.left) * 3;
      cut.pixels.insert(cut.pixels.end(), row, row + region.width * 3);
    }
    const Scaling whole{{0, 0, region.height, region.width}, 13, 17, 2, 4};
    std::vector<uint8_t> of_region(3 * 11 * 11), of_cut(3 * 11 * 11);
    resize(image, {region, 13, 17, 2, 4}, 11, of_region);
    resize(cut, whole, 11, of_cut);
    EXPECT_EQ(of_region, of_cut) << region.top << " " << region.left;
  }
}

// Of an image half as large, the same picture but for the averages of its pixels.
TEST(Resize, AShrunkImageGivesThePicture) {
  EXPECT_EQ(shrunk({{10, 21, 40, 31}, 8, 8, 0, 0}, 101, 80, 4), (Scaling{{2, 5, 10, 8}, 8, 8, 0, 0}));
  EXPECT_EQ(shrunk({{0, 0, 101, 80}, 8, 8, 0, 0}, 101, 80, 8), (Scaling{{0, 0, 13, 10}, 8, 8, 0, 0}));
  EXPECT_EQ(shrunk({{100, 79, 1, 1}, 8, 8, 0, 0}, 101, 80, 8), (Scaling{{12, 9, 1, 1}, 8, 8, 0, 0}));
  RgbImage image{64, 96, {}}, half{32, 48, {}};
  const auto at = [](double y, double x) {
    return static_cast<uint8_t>(128 + 100 * std::sin(y / 9) * std::cos(x / 7));
  };
  for (int64_t y = 0; y < 64; ++y) {
    for (int64_t x = 0; x < 96; ++x) image.pixels.insert(image.pixels.end(), 3, at(double(y), double(x)));
  }
  for (int64_t y = 0; y < 32; ++y) {
    for (int64_t x = 0; x < 48; ++x)
      half.pixels.insert(half.pixels.end(), 3, at(2 * double(y) + 0.5, 2 * double(x) + 0.5));
  }
  const Scaling scaling = resize_then_crop(64, 96, 24, 20);
  std::vector<uint8_t> whole(1200), small(1200);
  resize(image, scaling, 20, whole);
  resize(half, shrunk(scaling, 64, 96, 2), 20, small);
  int worst = 0;
  for (size_t i = 0; i < whole.size(); ++i) worst = std::max(worst, std::abs(whole[i] - small[i]));
  EXPECT_LE(worst, 12);
  EXPECT_GT(worst, 0);
}

TEST(Resize, OtherSizesAreRefused) {
  std::vector<uint8_t> out(11);
  EXPECT_THROW(resize_and_crop(made_up(4, 4), 2, out), Error);
  EXPECT_THROW(resize_and_crop(RgbImage{}, 2, out), Error);
}

}  // namespace
}  // namespace furrow::preprocess
