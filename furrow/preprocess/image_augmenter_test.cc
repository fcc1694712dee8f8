#include "furrow/preprocess/image_augmenter.h"

#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "furrow/base/error.h"

namespace furrow::preprocess {
namespace {

const Shape kShape{3, 5, 4};

std::vector<uint8_t> image() {
  std::vector<uint8_t> pixels(60);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<uint8_t>(i + 1);  // none is 0
  return pixels;
}

std::vector<uint8_t> augmented(const ImageAugmenter& augmenter, int64_t position) {
  std::vector<uint8_t> out(60, 99);
  augmenter.apply(position, kShape, image(), out);
  return out;
}

// The definition, one pixel at a time.
std::vector<uint8_t> reference(const ImageAugmenter::Draw& draw) {
  const std::vector<uint8_t> in = image();
  std::vector<uint8_t> out;
  for (int64_t c = 0; c < 3; ++c) {
    for (int64_t y = 0; y < 5; ++y) {
      for (int64_t x = 0; x < 4; ++x) {
        const int64_t column = (draw.flip ? 3 - x : x) + draw.right, row = y + draw.down;
        const bool inside = row >= 0 && row < 5 && column >= 0 && column < 4;
        out.push_back(inside ? in[static_cast<size_t>((c * 5 + row) * 4 + column)] : 0);
      }
    }
  }
  return out;
}

TEST(ImageAugmenter, IsItsDefinitionForEveryDraw) {
  for (const int64_t padding : {0, 1, 2, 6}) {  // 6: often nothing of the image is left
    const ImageAugmenter augmenter(7, {padding, true});
    for (int64_t position = 0; position < 400; ++position) {
      ASSERT_EQ(augmented(augmenter, position), reference(augmenter.draw(position))) << position;
    }
  }
}

TEST(ImageAugmenter, NothingAskedForChangesNothing) {
  const ImageAugmenter augmenter(7, {});
  for (int64_t position = 0; position < 50; ++position) EXPECT_EQ(augmented(augmenter, position), image());
  EXPECT_FALSE(Augmentation{}.any());
  EXPECT_TRUE((Augmentation{1, false}).any());
  EXPECT_TRUE((Augmentation{0, true}).any());
}

TEST(ImageAugmenter, DrawsAreEvenAndIndependent) {
  const ImageAugmenter augmenter(3, {2, true});
  std::map<int64_t, int> down, right, both;
  int flips = 0;
  constexpr int kDraws = 50000;
  for (int64_t position = 0; position < kDraws; ++position) {
    const auto draw = augmenter.draw(position);
    ++down[draw.down];
    ++right[draw.right];
    ++both[draw.down * 10 + draw.right];
    flips += draw.flip;
  }
  ASSERT_EQ(down.size(), 5u);
  ASSERT_EQ(right.size(), 5u);
  ASSERT_EQ(both.size(), 25u);
  for (const auto& [offset, count] : down) EXPECT_NEAR(count, kDraws / 5, 500) << offset;
  for (const auto& [offset, count] : right) EXPECT_NEAR(count, kDraws / 5, 500) << offset;
  for (const auto& [offset, count] : both) EXPECT_NEAR(count, kDraws / 25, 250) << offset;
  EXPECT_NEAR(flips, kDraws / 2, 600);
}

TEST(ImageAugmenter, SeedAndPositionDecide) {
  const ImageAugmenter a(1, {4, true}), again(1, {4, true}), b(2, {4, true});
  int same_seed = 0, other_seed = 0, next = 0;
  for (int64_t position = 0; position < 100; ++position) {
    same_seed += augmented(a, position) == augmented(again, position);
    other_seed += augmented(a, position) == augmented(b, position);
    next += augmented(a, position) == augmented(a, position + 1);
  }
  EXPECT_EQ(same_seed, 100);
  EXPECT_LT(other_seed, 20);
  EXPECT_LT(next, 20);
}

// torchvision's RandomResizedCrop: an area even from least_scale to 1, a ratio even in its logarithm.
TEST(ImageAugmenter, RegionsHaveTheAreaAndTheShapeAskedFor) {
  Augmentation wanted;
  wanted.resized_crop = true;
  wanted.least_scale = 0.25;
  EXPECT_TRUE(wanted.any());
  const ImageAugmenter augmenter(3, wanted), other(4, wanted);
  constexpr int kDraws = 20000;
  int small = 0, tall = 0, top_half = 0, same = 0;
  for (int64_t position = 0; position < kDraws; ++position) {
    const Region region = augmenter.region(position, 400, 400);
    ASSERT_TRUE(region.top >= 0 && region.left >= 0 && region.top + region.height <= 400 &&
                region.left + region.width <= 400);
    const double area = static_cast<double>(region.height * region.width) / 160000;
    const double ratio = static_cast<double>(region.width) / static_cast<double>(region.height);
    ASSERT_GT(area, 0.247);
    ASSERT_TRUE(ratio > 0.74 && ratio < 1.35) << ratio;
    small += area < 0.5;
    tall += ratio < 1;
    top_half += 2 * region.top < 400 - region.height;
    same += region == other.region(position, 400, 400);
  }
  // Areas above 3/4 fit with the probability ln(1 / area) / ln(4 / 3), 0.476 of them: 0.25 / (0.5 + 0.25 *
  // 0.476).
  EXPECT_NEAR(small, kDraws * 0.404, kDraws * 0.012);
  EXPECT_NEAR(tall, kDraws / 2, 500);
  EXPECT_NEAR(top_half, kDraws / 2, 500);
  EXPECT_LT(same, 5);
}

TEST(ImageAugmenter, RegionsKeepToOtherScalesAndRatios) {
  Augmentation wanted;
  wanted.resized_crop = true;
  wanted.least_scale = 0.3;
  wanted.most_scale = 0.4;
  wanted.least_ratio = 1.5;
  wanted.most_ratio = 2;
  const ImageAugmenter augmenter(3, wanted);
  for (int64_t position = 0; position < 5000; ++position) {
    const Region region = augmenter.region(position, 400, 400);
    const double area = static_cast<double>(region.height * region.width) / 160000;
    const double ratio = static_cast<double>(region.width) / static_cast<double>(region.height);
    ASSERT_TRUE(area > 0.298 && area < 0.402) << area;
    ASSERT_TRUE(ratio > 1.49 && ratio < 2.02) << ratio;
  }
  wanted.least_scale = wanted.most_scale = 1;
  EXPECT_EQ(ImageAugmenter(3, wanted).region(0, 30, 1000), (Region{0, 470, 30, 60}));
  EXPECT_EQ(ImageAugmenter(3, wanted).region(0, 1000, 30), (Region{490, 0, 20, 30}));
  EXPECT_EQ(ImageAugmenter(3, wanted).region(0, 100, 170), (Region{0, 0, 100, 170}));
  wanted.least_ratio = 3;
  EXPECT_THROW(ImageAugmenter(3, wanted), Error);
}

TEST(ImageAugmenter, ALongImageGivesItsMiddle) {
  Augmentation wanted;
  wanted.resized_crop = true;
  wanted.least_scale = 1;
  const ImageAugmenter augmenter(3, wanted);
  EXPECT_EQ(augmenter.region(0, 30, 1000), (Region{0, 480, 30, 40}));
  EXPECT_EQ(augmenter.region(0, 1000, 30), (Region{480, 0, 40, 30}));
  EXPECT_EQ(augmenter.region(0, 1, 1), (Region{0, 0, 1, 1}));
}

TEST(ImageAugmenter, OtherBuffersAreRefused) {
  std::vector<uint8_t> out(59);
  EXPECT_THROW(ImageAugmenter(1, {1, true}).apply(0, kShape, image(), out), Error);
  EXPECT_THROW(ImageAugmenter(1, {-1, true}), Error);
}

}  // namespace
}  // namespace furrow::preprocess
