// Any bytes are an image whose pixels can be resized, whole, decoded to an eighth of its sides or in part,
// which has the pixels of the whole, or are refused: Error{data_loss}, of too many pixels
// Error{invalid_argument}.
#include <algorithm>

#include "furrow/base/error.h"
#include "furrow/data/image_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  try {
    const preprocess::RgbImage image = data::decode_image({data, size});
    FURROW_CHECK(image.pixels.size() == static_cast<size_t>(image.height * image.width * 3), "pixels");
    if (image.height * image.width > 1 << 20) return 0;
    std::vector<uint8_t> out(3 * 8 * 8);
    preprocess::resize_and_crop(image, 8, out);
    const data::DecodedImage small =
        data::decode_image({data, size}, [](int64_t, int64_t) { return data::Wanted{8}; });
    FURROW_CHECK(small.pixels.height == (image.height + small.shrink - 1) / small.shrink, "another height");
    const auto scaling = preprocess::resize_then_crop(image.height, image.width, 12, 8);
    preprocess::resize(small.pixels, preprocess::shrunk(scaling, image.height, image.width, small.shrink), 8,
                       out);
    const preprocess::Region middle{image.height / 3, image.width / 3, image.height / 3 + 1,
                                    image.width / 3 + 1};
    const data::DecodedImage part =
        data::decode_image({data, size}, [&](int64_t, int64_t) { return data::Wanted{1, middle}; });
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
  return 0;
}
