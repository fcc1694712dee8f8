#include "furrow/data/packed_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/log.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/data/documents.h"
#include "furrow/data/encoded_index.h"
#include "furrow/data/image_files.h"
#include "furrow/data/images.h"
#include "furrow/data/open_images.h"
#include "furrow/data/open_text.h"
#include "furrow/data/packed_files.h"
#include "furrow/data/records.h"
#include "furrow/data/text.h"

namespace furrow::data {
namespace {

using storage::PackReader;

[[noreturn]] void damaged(const std::string& message) { throw Error(ErrorCode::kDataLoss, message); }

class PackedImages : public ImageStore {
 public:
  PackedImages(PackReader reader, Shape shape) : reader_(std::move(reader)), shape_(std::move(shape)) {}
  int64_t size() const override { return reader_.size(); }
  const Shape& shape() const override { return shape_; }
  Image fetch(size_t index, std::span<uint8_t> scratch) const override {
    const auto record = reader_.read(static_cast<int64_t>(index), 1, std::as_writable_bytes(scratch));
    int32_t label = 0;
    std::memcpy(&label, record.data() + image_bytes(), sizeof(label));
    return {{reinterpret_cast<const uint8_t*>(record.data()), image_bytes()}, label};
  }
  void prefetch(size_t index) const override { reader_.prefetch(static_cast<int64_t>(index), 1); }

 private:
  PackReader reader_;
  Shape shape_;
};

class PackedTokens : public TokenStore {
 public:
  PackedTokens(PackReader reader, int64_t vocabulary) : reader_(std::move(reader)), vocabulary_(vocabulary) {}
  int64_t size() const override { return reader_.size(); }
  int64_t vocabulary() const override { return vocabulary_; }
  std::span<const std::byte> raw(int64_t begin, int64_t count, std::span<std::byte> scratch) const override {
    return reader_.read(begin, count, scratch);
  }
  void prefetch(int64_t begin, int64_t count) const override { reader_.prefetch(begin, count); }

 private:
  PackReader reader_;
  int64_t vocabulary_;
};

class PackedSamples : public Source {
 public:
  PackedSamples(PackReader reader, std::vector<Field> fields, int64_t classes)
      : reader_(std::move(reader)), fields_(std::move(fields)), classes_(classes) {}
  int64_t size() const override { return reader_.size(); }
  const std::vector<Field>& fields() const override { return fields_; }
  int64_t classes() const override { return classes_; }
  void read(std::span<const int64_t> indices, std::span<const ArrayView> views) const override {
    check_read(*this, indices, views);
    std::vector<std::byte> scratch(reader_.record_bytes());
    for (size_t row = 0; row < indices.size(); ++row) {
      const std::byte* from = reader_.read(indices[row], 1, scratch).data();
      for (size_t f = 0; f < views.size(); ++f) {
        const size_t bytes = sample_bytes(fields_[f]);
        std::memcpy(views[f].bytes.data() + row * bytes, from, bytes);
        from += bytes;
      }
    }
  }

 private:
  PackReader reader_;
  std::vector<Field> fields_;
  int64_t classes_;
};

const char* split_name(const PackedSplit& packed) {
  const char* const names[] = {"training", "validation", "test"};
  return names[static_cast<int>(packed.split)];
}

// The fields of records of a layout, or what is wrong with them.
void expect_fields(std::string_view layout, std::span<const Field> fields, std::span<const Field> expected) {
  if (!std::ranges::equal(fields, expected))
    damaged(fmt::format("records of layout {} have other fields", layout));
}

Shape image_shape(std::span<const Field> fields) {
  if (fields.empty() || fields[0].shape.size() != 3) damaged("images of no shape [c, h, w]");
  expect_fields(kImageRecords, fields, image_record_fields(fields[0].shape));
  return fields[0].shape;
}

std::unique_ptr<Source> images_of(std::shared_ptr<const ImageStore> images, const FittedImages& fitted,
                                  const PackedSplit& packed) {
  ImagePipeline pipeline{fitted.normaliser};
  if (packed.split == Split::kTrain) pipeline.augmenter = make_augmenter(packed.options);
  return std::make_unique<ImageSource>(std::move(images), std::vector<uint32_t>(), std::move(pipeline),
                                       fitted.classes);
}

// What only image files can give.
void check_pixels(const Shape& shape, const PackedSplit& packed) {
  const int64_t size = packed.options.image_size;
  if (packed.split != Split::kTrain) return;
  if (packed.options.augmentation.resized_crop) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[data] random_resized_crop takes regions of whole images, and {} holds them cut to {}: "
                    "pack the folder with `furrow data pack --layout encoded`, or leave it out",
                    packed.name, to_string(shape)));
  }
  if (size == 0 || (size == shape[1] && size == shape[2])) return;
  log_warning(fmt::format("{}: {} holds images cut to {}: the size {} that [data] asks for has no effect",
                          packed.options.path.string(), packed.name, to_string(shape), size));
}

std::unique_ptr<Source> open_images(PackReader reader, PackedSplit packed) {
  const Shape shape = image_shape(packed.fields);
  check_pixels(shape, packed);
  return images_of(std::make_shared<PackedImages>(std::move(reader), shape),
                   load_fitted_images(packed.fitted, shape), packed);
}

std::vector<Field> describe_images(std::span<const Field> fields, const DatasetOptions&, const Lineage&) {
  return image_fields(image_shape(fields));
}

int64_t image_samples(int64_t records, const DatasetOptions&) { return records; }

// Files whose pictures have other sizes than those that mean and deviation are of.
void say_sizes_differ(const PictureSizes& fitted, const PictureSizes& sizes, const PackedSplit& packed) {
  if (packed.split != Split::kTrain || !packed.options.normalize) return;
  if (fitted.crop == sizes.crop && fitted.resize == sizes.resize) return;
  log_info(fmt::format(
      "{}: mean and deviation of {} are of images scaled to {} and cut to {}, not to {} and {}: pack "
      "the images with these sizes for the bits of the folder itself",
      packed.options.path.string(), packed.name, fitted.resize, fitted.crop, sizes.resize, sizes.crop));
}

std::vector<Field> describe_encoded(std::span<const Field> fields, const DatasetOptions& options,
                                    const Lineage& lineage) {
  expect_fields(kEncodedRecords, fields, encoded_record_fields());
  return image_fields(PictureCutter(picture_sizes(options, nullptr, sizes_in(lineage))).shape());
}

std::unique_ptr<Source> open_encoded(PackReader reader, PackedSplit packed) {
  const PictureSizes fitted_sizes = sizes_in(packed.lineage);
  const PictureSizes sizes = picture_sizes(packed.options, &packed.fitted, fitted_sizes);
  say_sizes_differ(fitted_sizes, sizes, packed);
  const FittedImages fitted = load_fitted_images(packed.fitted, PictureCutter(sizes).shape());
  return images_of(open_packed_files({.bytes = std::move(reader),
                                      .index = std::move(*packed.index),
                                      .sizes = sizes,
                                      .fitted = fitted_sizes,
                                      .classes = fitted.classes}),
                   fitted, packed);
}

std::vector<int64_t> read_ends(const PackReader& index) {
  std::vector<int64_t> ends(static_cast<size_t>(index.size()));
  const auto bytes = std::as_writable_bytes(std::span(ends));
  const auto read = index.read(0, index.size(), bytes);
  FURROW_CHECK(read.data() == bytes.data(), "streamed records lie elsewhere");
  return ends;
}

std::unique_ptr<Source> open_documents(PackReader reader, PackedSplit packed) {
  const int64_t vocabulary = packed_classes(packed.fitted);
  expect_fields(kDocumentRecords, packed.fields, token_record_fields(vocabulary));
  const std::vector<int64_t> ends = read_ends(*packed.index);
  bool ascending = !ends.empty() && ends.back() == reader.size();
  int64_t before = 0;
  for (const int64_t end : ends) ascending = ascending && std::exchange(before, end) < end;
  if (!ascending) damaged("the ends of its documents do not ascend to the number of its tokens");
  return document_rows({packed.name, std::make_shared<PackedTokens>(std::move(reader), vocabulary)},
                       split_name(packed), 0, ends, packed.options.context);
}

std::vector<Field> describe_documents(std::span<const Field>, const DatasetOptions& options, const Lineage&) {
  return document_fields(checked_context(options));
}

std::unique_ptr<Source> open_tokens(PackReader reader, PackedSplit packed) {
  const int64_t vocabulary = packed_classes(packed.fitted);
  expect_fields(kTokenRecords, packed.fields, token_record_fields(vocabulary));
  const int64_t size = reader.size(), context = packed.options.context;
  return token_windows({packed.name, std::make_shared<PackedTokens>(std::move(reader), vocabulary)},
                       split_name(packed), {0, size},
                       packed.split == Split::kTrain ? training_windows(packed.options)
                                                     : Windows{.context = context, .stride = context});
}

std::vector<Field> describe_tokens(std::span<const Field>, const DatasetOptions& options, const Lineage&) {
  return text_fields(checked_context(options));
}

int64_t token_samples(int64_t records, const DatasetOptions& options) {
  return training_windows(options).count(records);
}

std::vector<Field> describe_samples(std::span<const Field> fields, const DatasetOptions&, const Lineage&) {
  if (fields.size() < 2) damaged("samples without input and target");
  return {fields.begin(), fields.end()};
}

std::unique_ptr<Source> open_samples(PackReader reader, PackedSplit packed) {
  return std::make_unique<PackedSamples>(std::move(reader),
                                         describe_samples(packed.fields, packed.options, packed.lineage),
                                         packed_classes(packed.fitted));
}

constexpr PackedLayout kLayouts[] = {
    {kDocumentRecords, &open_documents, &describe_documents, nullptr, &document_end_fields},
    {kEncodedRecords, &open_encoded, &describe_encoded, &image_samples, &index_record_fields, true, true},
    {kImageRecords, &open_images, &describe_images, &image_samples, nullptr, true},
    {kSampleRecords, &open_samples, &describe_samples, &image_samples},
    {kTokenRecords, &open_tokens, &describe_tokens, &token_samples},
};

}  // namespace

const PackedLayout& packed_layout(std::string_view name) {
  std::vector<std::string> known;
  for (const PackedLayout& layout : kLayouts) {
    if (layout.name == name) return layout;
    known.emplace_back(layout.name);
  }
  throw Error(ErrorCode::kUnimplemented,
              unknown_name_message("layout of the pack", std::string(name), known));
}

int64_t packed_classes(const Preprocessing& fitted) {
  int64_t classes = 0;
  if (!parse_int(preprocess::state_value(fitted, "classes"), classes) || classes < 1) {
    damaged("its 'classes' is no count");
  }
  return classes;
}

}  // namespace furrow::data
