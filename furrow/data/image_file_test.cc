// Image files: what the decoders give, damage.
#include "furrow/data/image_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/data/test_images.h"

namespace furrow::data {
namespace {

using testing::ByteVector;
using testing::error_of;
using ::testing::HasSubstr;
using testing::sample;

// The picture behind all samples, 24 x 17, written by Pillow.
uint8_t pixel(int64_t y, int64_t x, int64_t channel) {
  const int64_t values[] = {x * 11 % 256, y * 15 % 256, x * y % 256};
  return static_cast<uint8_t>(values[channel]);
}

double mean_error(const preprocess::RgbImage& image) {
  int64_t sum = 0;
  for (int64_t y = 0; y < 17; ++y) {
    for (int64_t x = 0; x < 24; ++x) {
      for (int64_t c = 0; c < 3; ++c) {
        const int64_t got = image.pixels[static_cast<size_t>((y * 24 + x) * 3 + c)];
        sum += std::abs(got - pixel(y, x, c));
      }
    }
  }
  return static_cast<double>(sum) / (17 * 24 * 3);
}

TEST(ImageFile, LosslessIsExactLossyIsNear) {
  for (const char* name : {"rgb.png", "alpha.png", "lossless.webp"}) {
    const auto image = decode_image(sample(name));
    ASSERT_EQ(image.height, 17) << name;
    ASSERT_EQ(image.width, 24);
    EXPECT_EQ(mean_error(image), 0) << name;
  }
  for (const char* name : {"rgb.jpg", "progressive.jpg", "cmyk.jpg", "lossy.webp"}) {
    const auto image = decode_image(sample(name));
    ASSERT_EQ(image.height, 17) << name;
    EXPECT_LT(mean_error(image), 12) << name;
    EXPECT_GT(mean_error(image), 0) << name;  // and the control: it is another file
  }
  const auto grey = decode_image(sample("grey.png"));
  for (size_t i = 0; i < grey.pixels.size(); i += 3) {
    ASSERT_EQ(grey.pixels[i], grey.pixels[i + 1]);
    ASSERT_EQ(grey.pixels[i], grey.pixels[i + 2]);
  }
}

// Adobe's marker turns the meaning of the values: without it this file's black lets no light through.
TEST(ImageFile, FourInksWithoutAdobesMarker) {
  ByteVector file = sample("cmyk.jpg");
  const std::string_view marker = "Adobe";
  const auto found = std::search(file.begin(), file.end(), marker.begin(), marker.end());
  ASSERT_NE(found, file.end());
  *found = 'a';
  const auto image = decode_image(file);
  ASSERT_EQ(image.width, 24);
  EXPECT_LE(*std::ranges::max_element(image.pixels), 2);
}

TEST(ImageFile, EveryTruncationAndForeignFilesAreRefused) {
  for (const char* name : {"rgb.png", "rgb.jpg", "cmyk.jpg", "lossless.webp", "lossy.webp"}) {
    const ByteVector whole = sample(name);
    for (size_t length = 0; length + 12 < whole.size(); length += 7) {
      const Error error = error_of([&] { decode_image(std::span(whole).first(length)); });
      ASSERT_EQ(error.code(), ErrorCode::kDataLoss) << name << " " << length;
    }
  }
  EXPECT_THAT(error_of([] { decode_image(testing::bytes_of("GIF89a")); }).what(),
              HasSubstr("no PNG, JPEG or WebP"));
  ByteVector huge = sample("rgb.png");
  huge[16] = 0x7f;  // a width of two milliards: the header's checksum is wrong too
  EXPECT_EQ(error_of([&] { decode_image(huge); }).code(), ErrorCode::kDataLoss);
  EXPECT_TRUE(is_image_name("a.JPG"));
  EXPECT_FALSE(is_image_name("a.jpg.txt"));
}

void append_number(ByteVector& bytes, uint64_t number) {
  for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(number >> shift));
}

ByteVector chunk(std::string_view name, const ByteVector& data) {
  ByteVector bytes;
  append_number(bytes, data.size());
  bytes.insert(bytes.end(), name.begin(), name.end());
  bytes.insert(bytes.end(), data.begin(), data.end());
  append_number(bytes, ::crc32(0, bytes.data() + 4, static_cast<uInt>(bytes.size() - 4)));
  return bytes;
}

// rgb.png with a chunk more behind its header.
ByteVector with_chunk(std::string_view name, const ByteVector& data) {
  constexpr long kBehindHeader = 33;
  ByteVector png = sample("rgb.png");
  const ByteVector more = chunk(name, data);
  png.insert(png.begin() + kBehindHeader, more.begin(), more.end());
  return png;
}

// What a file says about its colours, or says wrong about something else, is not what networks are trained
// on.
TEST(ImageFile, PixelsOfAPngAreTheNumbersThatItStores) {
  const auto plain = decode_image(sample("rgb.png")).pixels;
  const ByteVector linear{0, 1, 0x86, 0xa0};  // a gamma of 1
  for (const auto& [name, data] : {std::pair<std::string, ByteVector>{"gAMA", linear},
                                   {"iCCP", {'x', 0, 0, 1, 2, 3}},
                                   {"tIME", {7, 228, 13, 40, 0, 0, 0}},
                                   {"eXIf", {'x', 'x'}},
                                   {"bKGD", {0}}}) {
    EXPECT_EQ(decode_image(with_chunk(name, data)).pixels, plain) << name;
  }
  ByteVector flipped = with_chunk("gAMA", linear);
  flipped[43] ^= 1;
  const Error error = error_of([&] { decode_image(flipped); });
  EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error.what(), HasSubstr("chunk gAMA differs from its checksum"));
  ByteVector longer = sample("rgb.png");
  longer.insert(longer.end(), {1, 2, 3});  // behind the end
  EXPECT_EQ(decode_image(longer).pixels, plain);
}

TEST(ImageFile, SixteenBitsOfAPngAreTheSamePictureInEight) {
  ByteVector rows;
  for (int64_t y = 0; y < 17; ++y) {
    rows.push_back(0);
    for (int64_t i = 0; i < 24 * 3; ++i) {
      const uint32_t wide = pixel(y, i / 3, i % 3) * 257u;  // white is 65535
      rows.push_back(static_cast<uint8_t>(wide >> 8));
      rows.push_back(static_cast<uint8_t>(wide));
    }
  }
  uLongf size = ::compressBound(static_cast<uLong>(rows.size()));
  ByteVector packed(size);
  ASSERT_EQ(::compress(packed.data(), &size, rows.data(), static_cast<uLong>(rows.size())), Z_OK);
  packed.resize(size);
  ByteVector png = sample("rgb.png");
  png.resize(8);
  for (const ByteVector& part :
       {chunk("IHDR", {0, 0, 0, 24, 0, 0, 0, 17, 16, 2, 0, 0, 0}), chunk("IDAT", packed), chunk("IEND", {})})
    png.insert(png.end(), part.begin(), part.end());
  EXPECT_EQ(mean_error(decode_image(png)), 0);
}

// As Pillow and OpenCV; what is missing before the last pixel is damage all the same.
TEST(ImageFile, WhatFollowsTheLastPixelOfAJpegIsNotLookedAt) {
  const ByteVector whole = sample("rgb.jpg");
  const auto pixels = decode_image(whole).pixels;
  ByteVector more = whole;
  more.insert(more.end() - 2, {1, 2, 3, 4, 5, 6, 7});
  EXPECT_EQ(decode_image(more).pixels, pixels);
  EXPECT_EQ(decode_image(std::span(whole).first(whole.size() - 2)).pixels, pixels);
  EXPECT_EQ(error_of([&] { decode_image(std::span(whole).first(whole.size() - 12)); }).code(),
            ErrorCode::kDataLoss);
  const ByteVector scans = sample("progressive.jpg");
  for (size_t length = 0; length < scans.size() - 2; ++length) {
    ASSERT_EQ(error_of([&] { decode_image(std::span(scans).first(length)); }).code(), ErrorCode::kDataLoss)
        << length;
  }
}

TEST(ImageFile, AnAnimationIsItsFirstPicture) {
  const ByteVector file = sample("moving.webp");
  EXPECT_EQ(decode_image(file).pixels, decode_image(sample("rgb.png")).pixels);
  for (const size_t length : {file.size() - 1, file.size() - 200, size_t{60}}) {
    const Error cut = error_of([&] { decode_image(std::span(file).first(length)); });
    EXPECT_EQ(cut.code(), ErrorCode::kDataLoss) << length;
  }
}

TEST(ImageFile, AnAnimationWithoutPicturesIsRefused) {
  ByteVector webp = testing::bytes_of("RIFF");
  const ByteVector body = {'W', 'E', 'B', 'P', 'V', 'P', '8', 'X', 10, 0, 0,
                           0,   2,   0,   0,   0,   23,  0,   0,   16, 0, 0};
  webp.insert(webp.end(), {static_cast<uint8_t>(body.size()), 0, 0, 0});
  webp.insert(webp.end(), body.begin(), body.end());
  const Error error = error_of([&] { decode_image(webp); });
  EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
  EXPECT_THAT(error.what(), HasSubstr("pictures of an animated WebP"));
}

// Blocks of a JPEG become smaller ones: what the averages of its pixels are.
TEST(ImageFile, AShrunkJpegIsThePictureInSmall) {
  const auto whole = decode_image(sample("rgb.jpg"));
  for (const int shrink : {1, 2, 4, 8}) {
    int64_t asked_height = 0, asked_width = 0;
    const DecodedImage small = decode_image(sample("rgb.jpg"), [&](int64_t height, int64_t width) {
      asked_height = height;
      asked_width = width;
      return shrink;
    });
    EXPECT_EQ(asked_height, 17);
    EXPECT_EQ(asked_width, 24);
    EXPECT_EQ(small.shrink, shrink);
    ASSERT_EQ(small.pixels.height, (17 + shrink - 1) / shrink);
    ASSERT_EQ(small.pixels.width, 24 / shrink);
    int64_t error = 0, count = 0;
    for (int64_t y = 0; y < 17 / shrink; ++y) {  // whole blocks alone
      for (int64_t x = 0; x < small.pixels.width; ++x) {
        int64_t sum = 0;
        for (int64_t i = 0; i < shrink * shrink; ++i)
          sum += whole.pixels[static_cast<size_t>(
              ((y * shrink + i / shrink) * 24 + x * shrink + i % shrink) * 3 + 1)];
        error += std::abs(sum / (shrink * shrink) -
                          small.pixels.pixels[static_cast<size_t>((y * small.pixels.width + x) * 3 + 1)]);
        ++count;
      }
    }
    EXPECT_LE(error, 6 * count) << shrink;
  }
  EXPECT_EQ(decode_image(sample("rgb.png"), [](int64_t, int64_t) { return 8; }).shrink, 1);
  EXPECT_EQ(shrink_to(447, 224), 1);
  EXPECT_EQ(shrink_to(448, 224), 2);
  EXPECT_EQ(shrink_to(1 << 20, 1), 8);
}

TEST(ImageFile, TooManyPixelsAreNoDamage) {
  ByteVector file = sample("rgb.jpg");
  const ByteVector frame = {0xff, 0xc0};  // then a length, a depth, height and width
  const auto at = std::search(file.begin(), file.end(), frame.begin(), frame.end());
  ASSERT_NE(at, file.end());
  for (int i = 5; i < 9; ++i) at[i] = i % 2 == 1 ? 0x40 : 0;  // 16,384 a side
  const Error error = error_of([&] { decode_image(file); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
  EXPECT_THAT(error.what(), HasSubstr("16384 x 16384 pixels"));
  EXPECT_THAT(error.what(), HasSubstr("scale it down"));
  // An eighth of the sides are few: the file is read, and found to be cut short.
  EXPECT_EQ(error_of([&] { decode_image(file, [](int64_t, int64_t) { return 8; }); }).code(),
            ErrorCode::kDataLoss);
}

}  // namespace
}  // namespace furrow::data
