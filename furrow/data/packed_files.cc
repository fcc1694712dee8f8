#include "furrow/data/packed_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "furrow/base/error.h"
#include "furrow/data/encoded_index.h"

namespace furrow::data {
namespace {

class PackedFileImages : public ImageStore, private ImageFiles {
 public:
  explicit PackedFileImages(PackedFiles files)
      : files_(std::move(files)),
        cutter_(files_.sizes),
        shape_(cutter_.shape()),
        limits_{files_.bytes.size(), files_.classes} {
    check_index();
  }
  int64_t size() const override { return files_.index.size(); }
  const Shape& shape() const override { return shape_; }
  const ImageFiles* files() const override { return this; }

  Image fetch(size_t index, std::span<uint8_t> scratch) const override {
    return read(index, scratch, [this](auto file, auto pixels) { cutter_.cut(file, pixels); });
  }

  Image fetch_at(size_t index, int64_t position, const preprocess::ImageAugmenter& augmenter,
                 std::span<uint8_t> scratch) const override {
    return read(index, scratch,
                [&](auto file, auto pixels) { cutter_.cut_at(file, position, augmenter, pixels); });
  }

 private:
  void check_index() const {
    constexpr int64_t kAtOnce = 4096;
    IndexCheck check(limits_);
    std::vector<std::byte> memory(kAtOnce * kIndexRecordBytes);
    for (int64_t first = 0; first < size(); first += kAtOnce)
      check.add(files_.index.read(first, std::min(kAtOnce, size() - first), memory));
    check.finish();
  }

  EncodedFile file(size_t index) const {
    std::array<std::byte, 2 * kIndexRecordBytes> memory;
    const int64_t before = index == 0 ? 0 : 1;
    const auto records = files_.index.read(static_cast<int64_t>(index) - before, 1 + before, memory);
    return parse_index_record(records.first(static_cast<size_t>(before) * kIndexRecordBytes),
                              records.last(kIndexRecordBytes), limits_);
  }

  template <class Cut>
  Image read(size_t index, std::span<uint8_t> scratch, const Cut& cut) const {
    const auto pixels = scratch.first(image_bytes());
    const EncodedFile file = this->file(index);
    const auto count = static_cast<size_t>(file.end - file.begin);
    const auto memory = std::make_unique_for_overwrite<std::byte[]>(count);
    const auto bytes = files_.bytes.read(file.begin, file.end - file.begin, {memory.get(), count});
    try {
      cut(std::span(reinterpret_cast<const uint8_t*>(bytes.data()), count), pixels);
    } catch (const Error& error) {
      throw error.with_context(fmt::format("image {} of the pack", index));
    }
    return {pixels, file.label};
  }

  uint64_t file_bytes(size_t index) const override {
    const EncodedFile file = this->file(index);
    return static_cast<uint64_t>(file.end - file.begin);
  }
  int32_t file_label(size_t index) const override { return file(index).label; }
  PictureSizes fitted_sizes() const override { return files_.fitted; }
  void copy(const Part& part, std::span<std::byte> out) const override {
    const int64_t first = file(part.index).begin + static_cast<int64_t>(part.offset);
    const auto bytes = files_.bytes.read(first, static_cast<int64_t>(out.size()), out);
    if (bytes.data() != out.data()) std::memcpy(out.data(), bytes.data(), out.size());
  }

  PackedFiles files_;
  PictureCutter cutter_;
  Shape shape_;
  IndexLimits limits_;
};

}  // namespace

std::shared_ptr<const ImageStore> open_packed_files(PackedFiles files) {
  return std::make_shared<const PackedFileImages>(std::move(files));
}

}  // namespace furrow::data
