#include "furrow/data/images.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/data/idx.h"
#include "furrow/data/records.h"

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
constexpr size_t kLabelBytes = sizeof(int32_t);

}  // namespace

std::vector<int32_t> load_labels(const fs::path& path) {
  const Bytes file = read_contents(path);
  const Idx idx = parse_named(path, [&] { return parse_idx(file.as_uint8()); });
  if (idx.dtype != DType::kU8 || idx.shape.size() != 1) {
    invalid(fmt::format("{} holds {} {}, not 8-bit labels [n]: check which file it is", path.string(),
                        to_string(idx.dtype), to_string(idx.shape)));
  }
  return {idx.values.begin(), idx.values.end()};
}

ImageHeader read_image_header(const fs::path& path) {
  constexpr size_t kLongestHeader = 36;
  const std::vector<uint8_t> start = read_prefix(path, kLongestHeader);
  return image_header(parse_named(path, [&] { return parse_idx_header(start); }), path);
}

LabelledImages LabelledImages::load(const fs::path& images, const fs::path& labels) {
  Parts parts;
  parts.labels = load_labels(labels);
  parts.label_file = labels.string();
  parts.owner = read_contents(images);
  const Idx idx = parse_named(images, [&] { return parse_idx(parts.owner.as_uint8()); });
  const ImageHeader header = image_header(idx, images);
  if (header.count != static_cast<int64_t>(parts.labels.size())) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("{} has {} images but {} has {} labels: the files do not belong together",
                            images.string(), header.count, labels.string(), parts.labels.size()));
  }
  parts.shape = header.shape;
  parts.stride = static_cast<size_t>(num_elements(header.shape));
  parts.pixels = idx.values.data();
  return LabelledImages(std::move(parts));
}

void LabelledImages::prefetch(size_t index) const {
  const auto pixels = image(index);
  for (size_t i = 0; i < pixels.size(); i += 64) __builtin_prefetch(pixels.data() + i);
  asm volatile("");  // or GCC takes a function of prefetches alone for pure and drops its calls
}

int64_t count_classes(std::span<const int32_t> labels, const std::string& file) {
  const auto largest = std::ranges::max_element(labels);  // the first of them
  const int64_t classes = int64_t{*largest} + 1;
  std::vector<bool> seen(static_cast<size_t>(classes), false);
  for (const int32_t label : labels) seen[static_cast<size_t>(label)] = true;
  const int64_t missing = std::ranges::count(seen, false);
  if (missing * 2 > classes) {
    invalid(fmt::format(
        "{}: label {} of sample {} is out of range: {} of the {} classes below it never occur; correct "
        "the labels, classes count from 0",
        file, classes - 1, largest - labels.begin(), missing, classes - 1));
  }
  if (missing > 0) log_warning(fmt::format("{}: {} of {} classes have no sample", file, missing, classes));
  return classes;
}

void check_labels(std::span<const int32_t> labels, int64_t classes, const std::string& file) {
  const auto bad =
      std::find_if(labels.begin(), labels.end(), [=](int32_t label) { return label >= classes; });
  if (bad == labels.end()) return;
  invalid(fmt::format("{}: label {} of sample {} is out of range: the training data has {} classes (0 to {})",
                      file, *bad, bad - labels.begin(), classes, classes - 1));
}

std::vector<Field> image_fields(const Shape& shape) {
  return {{"input", DType::kF32, shape}, {"target", DType::kI64, {}}};
}

std::vector<Field> image_record_fields(const Shape& shape) {
  return {{"pixels", DType::kU8, shape}, {"label", DType::kI32, {}}};
}

ImageSource::ImageSource(std::shared_ptr<const ImageStore> images, std::vector<uint32_t> subset,
                         ImagePipeline pipeline, int64_t classes)
    : images_(std::move(images)),
      subset_(std::move(subset)),
      pipeline_(std::move(pipeline)),
      classes_(classes),
      fields_(image_fields(images_->shape())) {
  const size_t channels = pipeline_.normaliser->channels();
  FURROW_CHECK(channels == 1 || channels == static_cast<size_t>(images_->shape()[0]), "other channels");
}

size_t ImageSource::image_of(int64_t index) const {
  const auto at = static_cast<size_t>(index);
  return subset_.empty() ? at : subset_[at];
}

void ImageSource::read_at(std::span<const int64_t> indices, std::span<const int64_t> positions,
                          std::span<const ArrayView> fields) const {
  check_read(*this, indices, fields);
  const auto input = fields[0].as<float>();
  const auto target = fields[1].as<int64_t>();
  const size_t pixels = images_->image_bytes();
  const bool augment = pipeline_.augmenter != nullptr && !positions.empty();
  std::vector<uint8_t> memory(2 * pixels + kLabelBytes);
  const auto augmented = std::span(memory).first(pixels), scratch = std::span(memory).subspan(pixels);
  const auto fetch = [&](size_t row) {
    if (row < indices.size()) images_->prefetch(image_of(indices[row]));
  };
  for (size_t row = 0; row < kRowsAhead; ++row) fetch(row);
  for (size_t row = 0; row < indices.size(); ++row) {
    fetch(row + kRowsAhead);
    const size_t index = image_of(indices[row]);
    ImageStore::Image image = augment
                                  ? images_->fetch_at(index, positions[row], *pipeline_.augmenter, scratch)
                                  : images_->fetch(index, scratch);
    target[row] = image.label;
    if (augment) {
      pipeline_.augmenter->apply(positions[row], images_->shape(), image.pixels, augmented);
      image.pixels = augmented;
    }
    pipeline_.normaliser->apply(image.pixels, input.subspan(row * pixels, pixels));
  }
}

void ImageSource::read_targets(std::span<const int64_t> indices, const ArrayView& targets) const {
  std::ranges::transform(indices, targets.as<int64_t>().begin(),
                         [this](int64_t index) { return images_->label(image_of(index)); });
}

class ImageSource::PixelRecords : public Records {
 public:
  explicit PixelRecords(const ImageSource& source)
      : source_(source), fields_(image_record_fields(source.images_->shape())) {}
  std::string_view layout() const override { return kImageRecords; }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t size() const override { return source_.size(); }

  void read(int64_t first, std::span<std::byte> out) const override {
    const size_t pixels = source_.images_->image_bytes();
    std::vector<uint8_t> scratch(pixels + kLabelBytes);
    for (std::byte* to = out.data(); to < out.data() + out.size(); to += pixels + kLabelBytes) {
      const ImageStore::Image image = source_.images_->fetch(source_.image_of(first++), scratch);
      const auto label = static_cast<int32_t>(image.label);
      std::memcpy(to, image.pixels.data(), pixels);
      std::memcpy(to + pixels, &label, kLabelBytes);
    }
  }

 private:
  const ImageSource& source_;
  std::vector<Field> fields_;
};

std::unique_ptr<Records> ImageSource::records() const {
  if (const ImageFiles* const files = images_->files()) return encoded_records(*files, subset_, size());
  return std::make_unique<PixelRecords>(*this);
}

}  // namespace furrow::data
