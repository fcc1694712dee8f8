// The "pack" kind: a folder that `furrow data pack` wrote.
#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/base/names.h"
#include "furrow/base/text.h"
#include "furrow/data/documents.h"
#include "furrow/data/open_images.h"
#include "furrow/data/open_text.h"
#include "furrow/data/parallel_source.h"
#include "furrow/data/records.h"
#include "furrow/data/source_kinds.h"
#include "furrow/data/text.h"
#include "furrow/preprocess/class_names.h"
#include "furrow/storage/pack.h"

namespace furrow::data {
namespace {

using storage::PackAccess;
using storage::PackInfo;
using storage::PackReader;

constexpr int kStreamReaders = 4;  // wait for a disk at once, where nothing is said

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

struct Opening {
  const PackInfo& info;
  const DatasetOptions& options;
  const Preprocessing& fitted;
  Split split;
  std::vector<int64_t> ends = {};  // of documents

  const char* split_name() const {
    const char* const names[] = {"training", "validation", "test"};
    return names[static_cast<int>(split)];
  }
};

int64_t classes_of(const Preprocessing& fitted) {
  int64_t classes = 0;
  if (!parse_int(preprocess::state_value(fitted, "classes"), classes) || classes < 1) {
    damaged("its 'classes' is no count");
  }
  return classes;
}

// The fields of records of a layout, or what is wrong with them.
void expect_fields(const PackInfo& info, const std::vector<Field>& expected) {
  bool same = info.fields.size() == expected.size();
  for (size_t f = 0; same && f < expected.size(); ++f) {
    const storage::PackField& field = info.fields[f];
    same = field.name == expected[f].name && field.dtype == expected[f].dtype &&
           field.shape == expected[f].shape;
  }
  if (!same) damaged(fmt::format("records of layout {} have other fields", info.layout));
}

Shape image_shape(const PackInfo& info) {
  if (info.fields.empty() || info.fields[0].shape.size() != 3) damaged("images of no shape [c, h, w]");
  expect_fields(info, image_record_fields(info.fields[0].shape));
  return info.fields[0].shape;
}

std::unique_ptr<Source> open_images(PackReader reader, const Opening& opening) {
  const Shape shape = image_shape(opening.info);
  FittedImages fitted = load_fitted_images(opening.fitted, shape);
  ImagePipeline pipeline{fitted.normaliser};
  if (opening.split == Split::kTrain) pipeline.augmenter = make_augmenter(opening.options);
  return std::make_unique<ImageSource>(std::make_shared<PackedImages>(std::move(reader), shape),
                                       std::vector<uint32_t>(), std::move(pipeline), fitted.classes);
}

std::vector<Field> describe_images(const PackInfo& info, const DatasetOptions&) {
  return image_fields(image_shape(info));
}

int64_t image_samples(int64_t records, const DatasetOptions&) { return records; }

std::unique_ptr<Source> open_documents(PackReader reader, const Opening& opening) {
  const int64_t vocabulary = classes_of(opening.fitted);
  expect_fields(opening.info, token_record_fields(vocabulary));
  bool ascending = !opening.ends.empty() && opening.ends.back() == reader.size();
  int64_t before = 0;
  for (const int64_t end : opening.ends) ascending = ascending && std::exchange(before, end) < end;
  if (!ascending) damaged("the ends of its documents do not ascend to the number of its tokens");
  return document_rows({"the pack", std::make_shared<PackedTokens>(std::move(reader), vocabulary)},
                       opening.split_name(), 0, opening.ends, opening.options.context);
}

std::vector<Field> describe_documents(const PackInfo&, const DatasetOptions& options) {
  return document_fields(checked_context(options));
}

// The ends of the documents of `split`.
std::vector<int64_t> read_ends(const DatasetOptions& options, const PackInfo& info, std::string_view split) {
  const std::string name = fmt::format("{}{}", split, kEndsSuffix);
  const storage::PackSplit* const found = info.find(name);
  if (found == nullptr) damaged("it has no split " + name);
  if (info.record_bytes(*found) != sizeof(int64_t)) damaged("records of " + name + " are no numbers");
  const PackReader reader(options.path.string(), info, *found, PackAccess::kStreamed);
  std::vector<int64_t> ends(static_cast<size_t>(reader.size()));
  const auto bytes = std::as_writable_bytes(std::span(ends));
  const auto read = reader.read(0, reader.size(), bytes);
  FURROW_CHECK(read.data() == bytes.data(), "streamed records lie elsewhere");
  return ends;
}

std::unique_ptr<Source> open_tokens(PackReader reader, const Opening& opening) {
  const int64_t vocabulary = classes_of(opening.fitted);
  expect_fields(opening.info, token_record_fields(vocabulary));
  const int64_t size = reader.size(), context = opening.options.context;
  return token_windows({"the pack", std::make_shared<PackedTokens>(std::move(reader), vocabulary)},
                       opening.split_name(), {0, size},
                       opening.split == Split::kTrain ? training_windows(opening.options)
                                                      : Windows{.context = context, .stride = context});
}

std::vector<Field> describe_tokens(const PackInfo&, const DatasetOptions& options) {
  return text_fields(checked_context(options));
}

int64_t token_samples(int64_t records, const DatasetOptions& options) {
  return training_windows(options).count(records);
}

std::vector<Field> describe_samples(const PackInfo& info, const DatasetOptions&) {
  std::vector<Field> fields;
  for (const storage::PackField& field : info.fields)
    fields.push_back({field.name, field.dtype, field.shape});
  if (fields.size() < 2) damaged("samples without input and target");
  return fields;
}

std::unique_ptr<Source> open_samples(PackReader reader, const Opening& opening) {
  return std::make_unique<PackedSamples>(std::move(reader), describe_samples(opening.info, opening.options),
                                         classes_of(opening.fitted));
}

// How records of a pack become samples.
struct Layout {
  std::string_view name;
  std::unique_ptr<Source> (*open)(PackReader reader, const Opening& opening);
  std::vector<Field> (*fields)(const PackInfo& info, const DatasetOptions& options);
  // Of the training split; null: as many as an opened one has.
  int64_t (*samples)(int64_t records, const DatasetOptions& options);
};
constexpr Layout kLayouts[] = {
    {kDocumentRecords, &open_documents, &describe_documents, nullptr},
    {kImageRecords, &open_images, &describe_images, &image_samples},
    {kSampleRecords, &open_samples, &describe_samples, &image_samples},
    {kTokenRecords, &open_tokens, &describe_tokens, &token_samples},
};

const Layout& layout_of(const PackInfo& info) {
  std::vector<std::string> known;
  for (const Layout& layout : kLayouts) {
    if (layout.name == info.layout) return layout;
    known.emplace_back(layout.name);
  }
  throw Error(ErrorCode::kUnimplemented, unknown_name_message("layout of the pack", info.layout, known));
}

PackInfo read_info(const DatasetOptions& options) {
  PackInfo info = storage::read_pack(options.path.string());
  if (info.find("train") == nullptr) damaged(options.path.string() + " has no split 'train'");
  if (options.disjoint_windows && info.layout != kTokenRecords) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("[data] windows = disjoint cuts a text that is one stream of tokens, and {} holds "
                    "{}: leave windows out",
                    options.path.string(), info.layout));
  }
  return info;
}

uint64_t bytes_of(const PackInfo& info) {
  uint64_t bytes = 0;
  for (const storage::PackSplit& split : info.splits) {
    bytes += static_cast<uint64_t>(split.records()) * info.record_bytes(split);
  }
  return bytes;
}

PackAccess access_of(const PackInfo& info, uint64_t budget) {
  const uint64_t bytes = bytes_of(info);
  return budget > 0 && bytes > budget ? PackAccess::kStreamed : PackAccess::kMapped;
}

// One class a record: no tokens, no number.
bool is_labelled(const PackInfo& info) {
  const bool samples = info.layout == kSampleRecords && info.fields.size() > 1;
  return info.layout == kImageRecords ||
         (samples && info.fields[1].dtype == DType::kI64 && info.fields[1].shape.empty());
}

// Without what its classes are called, which earlier versions did not write down.
Preprocessing unnamed(Preprocessing fitted) {
  fitted.erase(preprocess::kClassNames);
  return fitted;
}

// Error{invalid_argument} unless records of the pack mean what they meant for `fitted`.
void check_fitted(const PackInfo& info, const DatasetOptions& options, const Preprocessing& fitted) {
  const std::string path = options.path.string();
  if (is_labelled(info)) {
    check_class_names(preprocess::class_names(fitted), preprocess::class_names(info.preprocessing), path);
  }
  if (info.layout == kImageRecords || unnamed(fitted) == unnamed(info.preprocessing)) return;
  throw Error(ErrorCode::kInvalidArgument,
              fmt::format("{} was packed with another vocabulary or other fitted values: pack its source "
                          "with those of the other data",
                          path));
}

// What was fitted earlier, else what the pack carries; without normalising if the options say so.
Preprocessing fitted_for(const PackInfo& info, const DatasetOptions& options,
                         const Preprocessing* preprocessing) {
  if (preprocessing != nullptr) {
    check_fitted(info, options, *preprocessing);
    return *preprocessing;
  }
  if (info.layout != kImageRecords || options.normalize) return info.preprocessing;
  Preprocessing fitted{{"mean", "0"}, {"std", "1"}}, rest = info.preprocessing;
  fitted.merge(rest);  // keeps what is there
  return fitted;
}

}  // namespace

Dataset open_pack(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const PackInfo info = read_info(options);
  const Layout& layout = layout_of(info);
  layout.fields(info, options);  // checks them before any shard is opened
  const PackAccess access = access_of(info, options.memory_budget);
  const int readers = readers_of(options, access == PackAccess::kStreamed);
  const auto pool = readers > 1 ? std::make_shared<ReaderPool>(readers) : nullptr;

  Dataset dataset;
  dataset.preprocessing = fitted_for(info, options, preprocessing);
  const auto open = [&](const char* name, Split split) -> std::unique_ptr<Source> {
    const storage::PackSplit* const found = info.find(name);
    if (found == nullptr) return nullptr;
    Opening opening{info, options, dataset.preprocessing, split};
    if (info.layout == kDocumentRecords) opening.ends = read_ends(options, info, name);
    auto source = layout.open(PackReader(options.path.string(), info, *found, access), opening);
    if (pool == nullptr) return source;
    return std::make_unique<ParallelSource>(std::move(source), pool);
  };
  try {
    dataset.train = open("train", Split::kTrain);
    dataset.validation = open("validation", Split::kValidation);
    dataset.test = open("test", Split::kTest);
  } catch (const Error& error) {
    throw error.with_context(options.path.string());
  }
  return dataset;
}

int readers_of(const DatasetOptions& options, bool streamed) {
  if (options.readers > 0) return options.readers;
  return streamed ? kStreamReaders : 1;
}

uint64_t pack_bytes(const DatasetOptions& options) { return bytes_of(read_info(options)); }

DataInfo probe_pack(const DatasetOptions& options) {
  const PackInfo info = read_info(options);
  const Layout& layout = layout_of(info);
  if (layout.samples == nullptr) {
    const Dataset dataset = open_pack(options, nullptr);
    return {dataset.train->fields(), dataset.train->classes(), dataset.train->size()};
  }
  return {layout.fields(info, options), classes_of(info.preprocessing),
          layout.samples(info.find("train")->records(), options)};
}

}  // namespace furrow::data
