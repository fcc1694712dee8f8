// Any bytes are an image whose pixels can be resized, or are refused with Error{data_loss}.
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
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss, "an error of another code");
  }
  return 0;
}
