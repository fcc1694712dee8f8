// Any bytes are either whole records with labels below 10 or refused with one error.
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "furrow/base/error.h"
#include "furrow/data/cifar.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace furrow;
  static const std::filesystem::path file =
      std::filesystem::temp_directory_path() / ("furrow-cifar-fuzz-" + std::to_string(::getpid()));
  std::ofstream(file, std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<long>(size));
  try {
    const data::LabelledImages images = data::load_cifar(std::span(&file, 1));
    FURROW_CHECK(images.size() > 0, "an empty set");
    for (size_t i = 0; i < static_cast<size_t>(images.size()); ++i) {
      FURROW_CHECK(images.labels()[i] >= 0 && images.labels()[i] < data::kCifarClasses, "a label");
      FURROW_CHECK(images.image(i).size() == 3072, "an image");
    }
  } catch (const Error& error) {
    FURROW_CHECK(error.code() == ErrorCode::kDataLoss || error.code() == ErrorCode::kInvalidArgument,
                 "an error of another code");
  }
  std::filesystem::remove(file);
  return 0;
}
