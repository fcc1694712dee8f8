#include "furrow/data/image_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/text.h"
#include "furrow/data/encoded_index.h"
#include "furrow/data/image_file.h"

namespace furrow::data {
namespace {

constexpr const char* kReading = "image_reading";
constexpr const char* kShrunk = "shrunk";
constexpr const char* kImageSize = "image_size";
constexpr const char* kResizeSize = "resize_size";

// Of each file, as many as there are.
class IndexRecords : public Records {
 public:
  IndexRecords(std::vector<int64_t> ends, std::vector<int32_t> labels)
      : ends_(std::move(ends)), labels_(std::move(labels)) {}
  std::string_view layout() const override { return kEncodedRecords; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t size() const override { return static_cast<int64_t>(ends_.size()); }
  void read(int64_t first, std::span<std::byte> out) const override {
    for (; !out.empty(); out = out.subspan(kIndexRecordBytes), ++first) {
      const auto at = static_cast<size_t>(first);
      store_index_record(ends_[at], labels_[at], out.first(kIndexRecordBytes));
    }
  }

 private:
  std::vector<int64_t> ends_;
  std::vector<int32_t> labels_;
  std::vector<Field> fields_ = index_record_fields();
};

class EncodedRecords : public Records {
 public:
  EncodedRecords(const ImageFiles& files, std::span<const uint32_t> images, int64_t count)
      : files_(files), images_(images) {
    FURROW_CHECK(count > 0, "no images");
    int64_t end = 0;
    for (int64_t i = 0; i < count; ++i)
      ends_.push_back(end += static_cast<int64_t>(files.file_bytes(image_of(static_cast<size_t>(i)))));
  }
  std::string_view layout() const override { return kEncodedRecords; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t size() const override { return ends_.back(); }

  void read(int64_t first, std::span<std::byte> out) const override {
    auto at = static_cast<size_t>(std::ranges::upper_bound(ends_, first) - ends_.begin());
    for (; !out.empty(); ++at) {
      const int64_t begin = at == 0 ? 0 : ends_[at - 1];
      const auto part = out.first(std::min(out.size(), static_cast<size_t>(ends_[at] - first)));
      files_.copy({.index = image_of(at),
                   .file_bytes = static_cast<uint64_t>(ends_[at] - begin),
                   .offset = static_cast<uint64_t>(first - begin)},
                  part);
      first = ends_[at];
      out = out.subspan(part.size());
    }
  }

  std::unique_ptr<Records> index() const override {
    std::vector<int32_t> labels;
    for (size_t i = 0; i < ends_.size(); ++i) labels.push_back(files_.file_label(image_of(i)));
    return std::make_unique<IndexRecords>(ends_, std::move(labels));
  }

  std::map<std::string, std::string> lineage() const override {
    const PictureSizes sizes = files_.fitted_sizes();
    return {{kImageSize, fmt::format("{}", sizes.crop)}, {kResizeSize, fmt::format("{}", sizes.resize)}};
  }

 private:
  size_t image_of(size_t record) const { return images_.empty() ? record : images_[record]; }

  const ImageFiles& files_;
  std::span<const uint32_t> images_;
  std::vector<int64_t> ends_;
  std::vector<Field> fields_ = encoded_record_fields();
};

int64_t size_in(const std::map<std::string, std::string>& lineage, const char* key) {
  const auto found = lineage.find(key);
  int64_t size = 0;
  if (found == lineage.end() || !parse_int(found->second, size) || size < 1 || size > 4096) {
    throw Error(ErrorCode::kDataLoss, fmt::format("its lineage has no {} from 1 to 4096", key));
  }
  return size;
}

}  // namespace

PictureSizes picture_sizes(const DatasetOptions& options, const Preprocessing* fitted,
                           PictureSizes otherwise) {
  PictureSizes sizes = otherwise;
  if (options.image_size > 0) sizes = {options.image_size, options.image_size};
  if (options.resize_size > 0) sizes.resize = options.resize_size;
  if (sizes.crop > sizes.resize) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{} pixels a side are to be taken of images whose shorter side is scaled to {}: "
                            "raise [data] resize_size, or lower crop_size",
                            sizes.crop, sizes.resize));
  }
  sizes.earlier = fitted != nullptr && !fitted->contains(kReading) && sizes.resize == sizes.crop;
  return sizes;
}

void note_reading(const PictureSizes& sizes, Preprocessing* fitted) {
  if (!sizes.earlier) (*fitted)[kReading] = kShrunk;
}

template <class ScalingOf>
void PictureCutter::read(std::span<const uint8_t> file, std::span<uint8_t> pixels,
                         const ScalingOf& scaling_of) const {
  preprocess::Scaling scaling;
  int64_t height = 0, width = 0;
  const auto choose = [&](int64_t image_height, int64_t image_width) {
    height = image_height;
    width = image_width;
    scaling = scaling_of(height, width);
    if (sizes_.earlier) return Wanted{};
    const int shrink = std::min(shrink_to(scaling.region.height, scaling.height),
                                shrink_to(scaling.region.width, scaling.width));
    return Wanted{shrink, preprocess::shrunk(scaling, height, width, shrink).region};
  };
  const DecodedImage image = decode_image(file, choose);
  scaling = preprocess::shrunk(scaling, height, width, image.shrink);
  scaling.region.top -= image.region.top;
  scaling.region.left -= image.region.left;
  preprocess::resize(image.pixels, scaling, sizes_.crop, pixels);
}

void PictureCutter::cut(std::span<const uint8_t> file, std::span<uint8_t> pixels) const {
  read(file, pixels, [this](int64_t height, int64_t width) {
    return sizes_.earlier ? preprocess::rounded_then_cropped(height, width, sizes_.crop)
                          : preprocess::resize_then_crop(height, width, sizes_.resize, sizes_.crop);
  });
}

void PictureCutter::cut_at(std::span<const uint8_t> file, int64_t position,
                           const preprocess::ImageAugmenter& augmenter, std::span<uint8_t> pixels) const {
  if (!augmenter.resizes()) return cut(file, pixels);
  read(file, pixels, [&](int64_t height, int64_t width) {
    return preprocess::Scaling{augmenter.region(position, height, width), sizes_.crop, sizes_.crop};
  });
}

std::unique_ptr<Records> encoded_records(const ImageFiles& files, std::span<const uint32_t> images,
                                         int64_t count) {
  return std::make_unique<EncodedRecords>(files, images, count);
}

std::vector<Field> encoded_record_fields() { return {{"byte", DType::kU8, {}}}; }

PictureSizes sizes_in(const std::map<std::string, std::string>& lineage) {
  const PictureSizes sizes{size_in(lineage, kResizeSize), size_in(lineage, kImageSize)};
  if (sizes.crop > sizes.resize)
    throw Error(ErrorCode::kDataLoss, "its lineage has a crop above what it is of");
  return sizes;
}

}  // namespace furrow::data
