// Image files: what the decoders give, damage.
#include "furrow/data/image_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <jpeglib.h>  // needs <cstdio> before it
#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/rng.h"
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
      return Wanted{shrink};
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
  EXPECT_EQ(decode_image(sample("rgb.png"), [](int64_t, int64_t) { return Wanted{8}; }).shrink, 1);
  EXPECT_EQ(shrink_to(447, 224), 1);
  EXPECT_EQ(shrink_to(448, 224), 2);
  EXPECT_EQ(shrink_to(1 << 20, 1), 8);
}

// A picture of noise, so that every colour differs from its neighbours.
struct JpegKind {
  int across = 1, down = 1;  // pixels that share a colour
  bool progressive = false, grey = false, inks = false;
  unsigned restart = 0;
};

ByteVector noise_jpeg(int height, int width, const JpegKind& kind) {
  jpeg_compress_struct jpeg{};
  jpeg_error_mgr errors;
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_compress(&jpeg);
  unsigned char* out = nullptr;
  unsigned long bytes = 0;
  jpeg_mem_dest(&jpeg, &out, &bytes);
  jpeg.image_height = static_cast<JDIMENSION>(height);
  jpeg.image_width = static_cast<JDIMENSION>(width);
  jpeg.input_components = kind.grey ? 1 : kind.inks ? 4 : 3;
  jpeg.in_color_space = kind.grey ? JCS_GRAYSCALE : kind.inks ? JCS_CMYK : JCS_RGB;
  jpeg_set_defaults(&jpeg);
  jpeg.comp_info[0].h_samp_factor = kind.across;
  jpeg.comp_info[0].v_samp_factor = kind.down;
  if (kind.progressive) jpeg_simple_progression(&jpeg);
  jpeg.restart_interval = kind.restart;
  jpeg_start_compress(&jpeg, TRUE);
  ByteVector row(static_cast<size_t>(width * jpeg.input_components));
  const Philox noise(1, RandomPurpose::kAugment, "noise");
  for (int y = 0; y < height; ++y) {
    for (size_t x = 0; x < row.size(); ++x)
      row[x] = static_cast<uint8_t>(noise.block(0, static_cast<uint64_t>(y), static_cast<uint32_t>(x))[0]);
    JSAMPROW line = row.data();
    jpeg_write_scanlines(&jpeg, &line, 1);
  }
  jpeg_finish_compress(&jpeg);
  jpeg_destroy_compress(&jpeg);
  const ByteVector file(out, out + bytes);
  std::free(out);
  return file;
}

ByteVector part_of(const preprocess::RgbImage& image, const preprocess::Region& region) {
  ByteVector part;
  for (int64_t y = region.top; y < region.top + region.height; ++y) {
    const auto from = image.pixels.begin() + (y * image.width + region.left) * 3;
    part.insert(part.end(), from, from + region.width * 3);
  }
  return part;
}

// However colours are sampled and stored, a part is what the whole has there.
TEST(ImageFile, APartOfAJpegHasThePixelsOfTheWhole) {
  const JpegKind kinds[] = {{1, 1},
                            {2, 1},
                            {1, 2},
                            {2, 2},
                            {4, 1},
                            {4, 2},
                            {2, 2, true},
                            {1, 1, false, true},
                            {2, 2, false, false, true},
                            {2, 2, false, false, false, 3}};
  const Philox random(2, RandomPurpose::kAugment, "regions");
  uint64_t draws = 0;
  for (size_t k = 0; k < 4 * std::size(kinds); ++k) {
    const JpegKind& kind = kinds[k / 4];
    const ByteVector file = noise_jpeg(83, std::array{97, 98, 99, 112}[k % 4], kind);
    for (const int shrink : {1, 2, 4, 8}) {
      const auto whole = decode_image(file, [&](int64_t, int64_t) { return Wanted{shrink}; }).pixels;
      for (int i = 0; i < 40; ++i) {
        const PhiloxBlock words = random.block(0, draws++, 0);
        preprocess::Region region;
        region.top = words[0] % whole.height;
        region.left = words[1] % whole.width;
        region.height = 1 + words[2] % (whole.height - region.top);
        region.width = 1 + words[3] % (whole.width - region.left);
        if (i < 24) {  // narrow, at the edges above all
          region.width = 1 + i % 2;
          region.left = i < 6 ? i : whole.width - region.width - (i - 6);
          region.left = std::clamp<int64_t>(region.left, 0, whole.width - region.width);
        }
        const DecodedImage part =
            decode_image(file, [&](int64_t, int64_t) { return Wanted{shrink, region}; });
        EXPECT_EQ(part.region, region);
        ASSERT_TRUE(part.pixels.pixels == part_of(whole, region))
            << kind.across << " x " << kind.down << ", " << whole.width << " wide, 1/" << shrink << ", rows "
            << region.top << " + " << region.height << ", columns " << region.left << " + " << region.width;
      }
    }
  }
}

TEST(ImageFile, DamageBehindThePartOfAJpegGoesUnseen) {
  const ByteVector whole = noise_jpeg(160, 160, {2, 2});
  const auto cut = std::span(whole).first(whole.size() / 2);
  const auto part = [](int64_t top) {
    return [top](int64_t, int64_t) { return Wanted{1, {top, 30, 20, 40}}; };
  };
  EXPECT_EQ(decode_image(cut, part(10)).pixels.pixels, decode_image(whole, part(10)).pixels.pixels);
  for (const int64_t top : {70, 140})
    EXPECT_EQ(error_of([&] { decode_image(cut, part(top)); }).code(), ErrorCode::kDataLoss) << top;
  EXPECT_EQ(error_of([&] { decode_image(cut); }).code(), ErrorCode::kDataLoss);
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
  EXPECT_EQ(error_of([&] { decode_image(file, [](int64_t, int64_t) { return Wanted{8}; }); }).code(),
            ErrorCode::kDataLoss);
}

}  // namespace
}  // namespace furrow::data
