// For tests and benches: small data files in a temporary folder, and where the real sets are.
#pragma once

#include <libdeflate.h>
#include <stdlib.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/loader.h"
#include "furrow/data/source.h"

namespace furrow::data::testing {

using ByteVector = std::vector<uint8_t>;

// A folder that is removed with everything in it.
class TempFolder {
 public:
  TempFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "furrow-data-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no temporary folder");
    path_ = name;
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(std::string_view name) const { return path_ / name; }
  std::filesystem::path write(std::string_view name, const ByteVector& bytes) const {
    std::ofstream out(path_ / name, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path_ / name;
  }
  std::filesystem::path write(std::string_view name, std::string_view text) const {
    return write(name, ByteVector(text.begin(), text.end()));
  }

 private:
  std::filesystem::path path_;
};

inline ByteVector idx_bytes(uint8_t type, std::initializer_list<uint32_t> dims, const ByteVector& values) {
  ByteVector bytes{0, 0, type, static_cast<uint8_t>(dims.size())};
  for (const uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<uint8_t>(dim >> shift));
  }
  bytes.insert(bytes.end(), values.begin(), values.end());
  return bytes;
}

// One gzip member.
inline ByteVector gzip_bytes(const ByteVector& contents) {
  libdeflate_compressor* const compressor = libdeflate_alloc_compressor(6);
  ByteVector out(libdeflate_gzip_compress_bound(compressor, contents.size()));
  out.resize(libdeflate_gzip_compress(compressor, contents.data(), contents.size(), out.data(), out.size()));
  libdeflate_free_compressor(compressor);
  return out;
}

// What `function` throws; Error{internal} "no error" when it does not.
template <class Function>
Error error_of(const Function& function) {
  try {
    function();
  } catch (const Error& error) {
    return error;
  }
  return {ErrorCode::kInternal, "no error"};
}

inline ByteVector bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

// Pixel p of image i of a made-up set.
inline uint8_t made_up_pixel(size_t image, size_t pixel) {
  return static_cast<uint8_t>((image * 131 + pixel * 29 + image * pixel) >> 1);
}

// `count` images of 4x3 with labels i % classes, as the files of `prefix` ("train", "t10k").
inline void write_images(const TempFolder& folder, const std::string& prefix, uint32_t count,
                         uint32_t classes = 3) {
  ByteVector pixels, labels;
  for (uint32_t i = 0; i < count; ++i) {
    for (uint32_t p = 0; p < 12; ++p) pixels.push_back(made_up_pixel(i, p));
    labels.push_back(static_cast<uint8_t>(i % classes));
  }
  folder.write(prefix + "-images-idx3-ubyte", idx_bytes(8, {count, 4, 3}, pixels));
  folder.write(prefix + "-labels-idx1-ubyte", idx_bytes(8, {count}, labels));
}

// A real set: "fashion-mnist" of the Debian package, or a folder of FURROW_DATA.  Empty when it is not on
// this machine; a test then says so loudly with FURROW_NEED_DATA.
inline std::filesystem::path real_data(const std::string& name) {
  std::filesystem::path path;
  if (name == "fashion-mnist") path = "/usr/share/datasets/fashion-mnist";
  if (const char* root = std::getenv("FURROW_DATA"); path.empty() && root != nullptr) {
    path = std::filesystem::path(root) / name;
  }
  return std::filesystem::is_directory(path) ? path : std::filesystem::path();
}

// The folder of CIFAR-10's .bin files: CIFAR10, or cifar10 in FURROW_DATA.  Empty when it is not there.
inline std::filesystem::path real_cifar10() {
  const char* root = std::getenv("CIFAR10");
  const std::filesystem::path path = root != nullptr ? std::filesystem::path(root) : real_data("cifar10");
  return std::filesystem::exists(path / "data_batch_1.bin") ? path : std::filesystem::path();
}

// Storage for what a source reads, with its views.
struct ReadBuffers {
  ReadBuffers(const Source& source, size_t rows) {
    for (const Field& field : source.fields()) {
      Shape shape{static_cast<int64_t>(rows)};
      shape.insert(shape.end(), field.shape.begin(), field.shape.end());
      arrays.emplace_back(field.dtype, shape, MemoryKind::kData);
      views.push_back(arrays.back().view());
    }
  }
  std::vector<Array> arrays;
  std::vector<ArrayView> views;
};

// Bytes of all fields of the batches of positions [begin, end), as training reads them.
inline ByteVector bytes_of_batches(const Source& source, int64_t end, bool shuffle = true,
                                   int64_t begin = 3) {
  Loader loader(source, SampleOrder(7, source.size(), shuffle),
                {.sizes = {5, 8}, .position = begin, .end = end});
  ByteVector all;
  while (const Batch* batch = loader.next()) {
    for (const ArrayView& view : batch->arrays) {
      const auto bytes = view.as<uint8_t>();
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    loader.release();
  }
  return all;
}

}  // namespace furrow::data::testing

#define FURROW_NEED_DATA(path, name)                                                                        \
  if ((path).empty()) {                                                                                     \
    std::fprintf(stderr, "SKIPPED for want of data: %s; see docs/datasets.md and set FURROW_DATA\n", name); \
    GTEST_SKIP() << "no data set " << name;                                                                 \
  }
