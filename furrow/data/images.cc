#include "furrow/data/images.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/data/gzip.h"
#include "furrow/data/idx.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void invalid(const std::string& message) { throw Error(ErrorCode::kInvalidArgument, message); }

template <class Parse>
Idx parse_named(const fs::path& path, const Parse& parse) {
  try {
    return parse();
  } catch (const Error& error) {
    throw error.with_context(path.string());
  }
}

// [n, h, w] or [n, c, h, w] of bytes, none of them 0.
ImageHeader image_header(const Idx& idx, const fs::path& path) {
  const bool right_dims = idx.shape.size() == 3 || idx.shape.size() == 4;
  if (idx.dtype != DType::kU8 || !right_dims) {
    invalid(fmt::format("{} holds {} {}, not 8-bit images [n, h, w]: check which file it is", path.string(),
                        to_string(idx.dtype), to_string(idx.shape)));
  }
  if (std::find(idx.shape.begin(), idx.shape.end(), 0) != idx.shape.end()) {
    invalid(fmt::format("{} is an empty set {}: there is nothing to train on", path.string(),
                        to_string(idx.shape)));
  }
  ImageHeader header{idx.shape[0], Shape(idx.shape.begin() + 1, idx.shape.end())};
  if (header.shape.size() == 2) header.shape.insert(header.shape.begin(), 1);
  return header;
}

// Fetches an image into the cache while those before it are converted; further ahead is no faster.
constexpr size_t kRowsAhead = 3;

void prefetch_image(std::span<const uint8_t> image) {
  for (size_t i = 0; i < image.size(); i += 64) __builtin_prefetch(image.data() + i);
  asm volatile("");  // or GCC takes a function of prefetches alone for pure and drops its calls
}

}  // namespace

Labels load_labels(const fs::path& path) {
  Labels labels{read_contents(path), {}};
  const Idx idx = parse_named(path, [&] { return parse_idx(labels.owner.as_uint8()); });
  if (idx.dtype != DType::kU8 || idx.shape.size() != 1) {
    invalid(fmt::format("{} holds {} {}, not 8-bit labels [n]: check which file it is", path.string(),
                        to_string(idx.dtype), to_string(idx.shape)));
  }
  labels.values = idx.values;
  return labels;
}

ImageHeader read_image_header(const fs::path& path) {
  constexpr size_t kLongestHeader = 36;
  const std::vector<uint8_t> start = read_prefix(path, kLongestHeader);
  return image_header(parse_named(path, [&] { return parse_idx_header(start); }), path);
}

LabelledImages LabelledImages::load(const fs::path& images, const fs::path& labels) {
  LabelledImages loaded;
  Labels label_part = load_labels(labels);
  loaded.label_bytes_owner_ = std::move(label_part.owner);
  loaded.labels_ = label_part.values;
  loaded.label_file_ = labels.string();
  loaded.image_bytes_owner_ = read_contents(images);
  const Idx idx = parse_named(images, [&] { return parse_idx(loaded.image_bytes_owner_.as_uint8()); });
  const ImageHeader header = image_header(idx, images);
  if (header.count != static_cast<int64_t>(loaded.labels_.size())) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("{} has {} images but {} has {} labels: the files do not belong together",
                            images.string(), header.count, labels.string(), loaded.labels_.size()));
  }
  loaded.size_ = header.count;
  loaded.shape_ = header.shape;
  loaded.image_bytes_ = static_cast<size_t>(num_elements(header.shape));
  loaded.pixels_ = idx.values;
  return loaded;
}

int64_t count_classes(std::span<const uint8_t> labels, const std::string& file) {
  std::array<int64_t, 256> count{};
  for (const uint8_t label : labels) ++count[label];
  int64_t classes = 256;
  while (classes > 1 && count[static_cast<size_t>(classes) - 1] == 0) --classes;
  const auto missing = std::count(count.begin(), count.begin() + classes, 0);
  const auto first_of_largest = std::find(labels.begin(), labels.end(), classes - 1) - labels.begin();
  if (missing * 2 > classes) {
    invalid(fmt::format(
        "{}: label {} of sample {} is out of range: {} of the {} classes below it never occur; correct "
        "the labels, classes count from 0",
        file, classes - 1, first_of_largest, missing, classes - 1));
  }
  if (missing > 0) log_warning(fmt::format("{}: {} of {} classes have no sample", file, missing, classes));
  return classes;
}

void check_labels(std::span<const uint8_t> labels, int64_t classes, const std::string& file) {
  const auto bad =
      std::find_if(labels.begin(), labels.end(), [=](uint8_t label) { return label >= classes; });
  if (bad == labels.end()) return;
  invalid(fmt::format("{}: label {} of sample {} is out of range: the training data has {} classes (0 to {})",
                      file, *bad, bad - labels.begin(), classes, classes - 1));
}

std::vector<Field> image_fields(const Shape& shape) {
  return {{"input", DType::kF32, shape}, {"target", DType::kI64, {}}};
}

ImageSource::ImageSource(std::shared_ptr<const LabelledImages> images, std::vector<uint32_t> subset,
                         std::shared_ptr<const preprocess::ImageNormaliser> normaliser, int64_t classes)
    : images_(std::move(images)),
      subset_(std::move(subset)),
      normaliser_(std::move(normaliser)),
      classes_(classes),
      fields_(image_fields(images_->shape())) {}

size_t ImageSource::image_of(int64_t index) const {
  const auto at = static_cast<size_t>(index);
  return subset_.empty() ? at : subset_[at];
}

void ImageSource::read(std::span<const int64_t> indices, std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  const auto input = fields[0].as<float>();
  const auto target = fields[1].as<int64_t>();
  const auto pixels = static_cast<size_t>(num_elements(images_->shape()));
  const auto fetch = [&](size_t row) {
    if (row < indices.size()) prefetch_image(images_->image(image_of(indices[row])));
  };
  for (size_t row = 0; row < kRowsAhead; ++row) fetch(row);
  for (size_t row = 0; row < indices.size(); ++row) {
    fetch(row + kRowsAhead);
    const size_t image = image_of(indices[row]);
    normaliser_->apply(images_->image(image), input.subspan(row * pixels, pixels));
    target[row] = images_->labels()[image];
  }
}

}  // namespace furrow::data
