// Any bytes are an image whose pixels can be resized, whole, decoded to an eighth of its sides or in part,
// which has the pixels of the whole, or are refused: Error{data_loss}, of too many pixels
// Error{invalid_argument}.  Checksums keep a fuzzer out: of a PNG the same holds with right ones.
#include <libdeflate.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/image_file.h"

namespace {

using namespace furrow;

bool is_png(std::span<const uint8_t> file) {
  return file.size() > 8 && std::memcmp(file.data(), "\x89PNG\r\n\x1a\n", 8) == 0;
}

// A chunk is its length, a name of four letters, so many bytes and the CRC-32 of name and bytes.
std::vector<uint8_t> with_right_checksums(std::span<const uint8_t> png) {
  std::vector<uint8_t> out(png.begin(), png.end());
  for (size_t at = 8; out.size() - at >= 12;) {
    const size_t length = size_t{out[at]} << 24 | out[at + 1] << 16 | out[at + 2] << 8 | out[at + 3];
    if (length > out.size() - at - 12) break;
    const uint32_t checksum = libdeflate_crc32(0, out.data() + at + 4, length + 4);
    for (size_t i = 0; i < 4; ++i) out[at + 8 + length + i] = static_cast<uint8_t>(checksum >> (24 - 8 * i));
    at += length + 12;
  }
  return out;
}

void check(std::span<const uint8_t> file) {
  try {
    const preprocess::RgbImage image = data::decode_image(file);
    FURROW_CHECK(image.pixels.size() == static_cast<size_t>(image.height * image.width * 3), "pixels");
    if (image.height * image.width > 1 << 20) return;
    std::vector<uint8_t> out(3 * 8 * 8);
    preprocess::resize_and_crop(image, 8, out);
    const data::DecodedImage small =
        data::decode_image(file, [](int64_t, int64_t) { return data::Wanted{8}; });
    FURROW_CHECK(small.pixels.height == (image.height + small.shrink - 1) / small.shrink, "another height");
    const auto scaling = preprocess::resize_then_crop(image.height, image.width, 12, 8);
    preprocess::resize(small.pixels, preprocess::shrunk(scaling, image.height, image.width, small.shrink), 8,
                       out);
    const preprocess::Region middle{image.height / 3, image.width / 3, image.height / 3 + 1,
                                    image.width / 3 + 1};
    const data::DecodedImage part =
        data::decode_image(file, [&](int64_t, int64_t) { return data::Wanted{1, middle}; });
    for (int64_t y = middle.top; y < middle.top + middle.height; ++y) {
      const auto pixels = [&](const preprocess::RgbImage& of, int64_t top, int64_t left) {
        return std::span(of.pixels).subspan(
            static_cast<size_t>(((y - top) * of.width + middle.left - left) * 3),
            static_cast<size_t>(middle.width * 3));
      };
      FURROW_CHECK(
          std::ranges::equal(pixels(image, 0, 0), pixels(part.pixels, part.region.top, part.region.left)),
          "a part of other pixels");
    }
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  check({data, size});
  if (is_png({data, size})) check(with_right_checksums({data, size}));
  return 0;
}
