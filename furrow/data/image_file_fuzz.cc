// Any bytes are an image whose pixels can be resized, whole or decoded to an eighth of its sides, or are
// refused: Error{data_loss}, of too many pixels Error{invalid_argument}.
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
    const data::DecodedImage small = data::decode_image({data, size}, [](int64_t, int64_t) { return 8; });
    FURROW_CHECK(small.pixels.height == (image.height + small.shrink - 1) / small.shrink, "another height");
    const auto scaling = preprocess::resize_then_crop(image.height, image.width, 12, 8);
    preprocess::resize(small.pixels, preprocess::shrunk(scaling, image.height, image.width, small.shrink), 8,
                       out);
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  return 0;
}
