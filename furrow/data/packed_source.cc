#include "furrow/data/packed_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/data/documents.h"
#include "furrow/data/images.h"
#include "furrow/data/open_images.h"
#include "furrow/data/open_text.h"
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

std::unique_ptr<Source> open_images(PackReader reader, const PackedSplit& packed) {
  const Shape shape = image_shape(packed.fields);
  FittedImages fitted = load_fitted_images(packed.fitted, shape);
  ImagePipeline pipeline{fitted.normaliser};
  if (packed.split == Split::kTrain) pipeline.augmenter = make_augmenter(packed.options);
  return std::make_unique<ImageSource>(std::make_shared<PackedImages>(std::move(reader), shape),
                                       std::vector<uint32_t>(), std::move(pipeline), fitted.classes);
}

std::vector<Field> describe_images(std::span<const Field> fields, const DatasetOptions&) {
  return image_fields(image_shape(fields));
}

int64_t image_samples(int64_t records, const DatasetOptions&) { return records; }

std::unique_ptr<Source> open_documents(PackReader reader, const PackedSplit& packed) {
  const int64_t vocabulary = packed_classes(packed.fitted);
  expect_fields(kDocumentRecords, packed.fields, token_record_fields(vocabulary));
  bool ascending = !packed.ends.empty() && packed.ends.back() == reader.size();
  int64_t before = 0;
  for (const int64_t end : packed.ends) ascending = ascending && std::exchange(before, end) < end;
  if (!ascending) damaged("the ends of its documents do not ascend to the number of its tokens");
  return document_rows({packed.name, std::make_shared<PackedTokens>(std::move(reader), vocabulary)},
                       split_name(packed), 0, packed.ends, packed.options.context);
}

std::vector<Field> describe_documents(std::span<const Field>, const DatasetOptions& options) {
  return document_fields(checked_context(options));
}

std::unique_ptr<Source> open_tokens(PackReader reader, const PackedSplit& packed) {
  const int64_t vocabulary = packed_classes(packed.fitted);
  expect_fields(kTokenRecords, packed.fields, token_record_fields(vocabulary));
  const int64_t size = reader.size(), context = packed.options.context;
  return token_windows({packed.name, std::make_shared<PackedTokens>(std::move(reader), vocabulary)},
                       split_name(packed), {0, size},
                       packed.split == Split::kTrain ? training_windows(packed.options)
                                                     : Windows{.context = context, .stride = context});
}

std::vector<Field> describe_tokens(std::span<const Field>, const DatasetOptions& options) {
  return text_fields(checked_context(options));
}

int64_t token_samples(int64_t records, const DatasetOptions& options) {
  return training_windows(options).count(records);
}

std::vector<Field> describe_samples(std::span<const Field> fields, const DatasetOptions&) {
  if (fields.size() < 2) damaged("samples without input and target");
  return {fields.begin(), fields.end()};
}

std::unique_ptr<Source> open_samples(PackReader reader, const PackedSplit& packed) {
  return std::make_unique<PackedSamples>(std::move(reader), describe_samples(packed.fields, packed.options),
                                         packed_classes(packed.fitted));
}

constexpr PackedLayout kLayouts[] = {
    {kDocumentRecords, &open_documents, &describe_documents, nullptr},
    {kImageRecords, &open_images, &describe_images, &image_samples},
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
