// The "idx" kind: MNIST, Fashion-MNIST and whatever else comes in their four files.
#include <fmt/format.h>

#include <charconv>
#include <utility>

#include "furrow/base/error.h"
#include "furrow/data/files.h"
#include "furrow/data/images.h"
#include "furrow/data/lazy_source.h"
#include "furrow/data/source_kinds.h"
#include "furrow/data/split.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;
using preprocess::ImageNormaliser;

struct Pair {
  fs::path images, labels;
};

Pair train_files(const DatasetOptions& options) {
  return {require_file(options.path / options.train_images),
          require_file(options.path / options.train_labels)};
}

// Test files are optional, but not one without the other.  Nothing is opened.
Pair test_files(const DatasetOptions& options) {
  if (options.test_images.empty()) return {};
  const fs::path images = options.path / options.test_images, labels = options.path / options.test_labels;
  if (find_file(images).empty() && find_file(labels).empty()) return {};
  return {require_file(images), require_file(labels)};
}

int64_t validation_count(const DatasetOptions& options, int64_t images) {
  return fraction_count(options.validation_fraction, images, "data.validation_fraction", "images");
}

// Exact: the order in which the images are added changes nothing.
ImageNormaliser fit(const LabelledImages& images, const std::vector<uint32_t>& train) {
  preprocess::PixelSums sums;
  for (const uint32_t image : train) sums.add(images.image(image));
  return ImageNormaliser::fit(sums);
}

int64_t stated_classes(const Preprocessing& fitted) {
  const std::string& text = preprocess::state_value(fitted, "classes");
  int64_t classes = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), classes);
  if (error != std::errc() || end != text.data() + text.size() || classes < 1) {
    throw Error(ErrorCode::kDataLoss,
                fmt::format("fitted preprocessing: 'classes' is '{}', not a count", text));
  }
  return classes;
}

std::unique_ptr<Source> open_test(const Pair& files, const Shape& shape,
                                  std::shared_ptr<const ImageNormaliser> normaliser, int64_t classes) {
  auto images = std::make_shared<LabelledImages>(LabelledImages::load(files.images, files.labels));
  if (images->shape() != shape) {
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{} has images of {}, but those for training are {}: the files do not belong together",
                    files.images.string(), to_string(images->shape()), to_string(shape)));
  }
  check_labels(images->labels(), classes, images->label_file());
  return std::make_unique<ImageSource>(std::move(images), std::vector<uint32_t>(), std::move(normaliser),
                                       classes);
}

struct Fitted {
  std::shared_ptr<const ImageNormaliser> normaliser;
  int64_t classes;
};

Fitted fit_or_load(const LabelledImages& images, const std::vector<uint32_t>& train, bool normalize,
                   const Preprocessing* preprocessing) {
  if (preprocessing == nullptr) {
    const ImageNormaliser normaliser = normalize ? fit(images, train) : ImageNormaliser(0, 1);
    return {std::make_shared<const ImageNormaliser>(normaliser),
            count_classes(images.labels(), images.label_file())};
  }
  Fitted fitted{preprocess::load_as<ImageNormaliser>(*preprocessing), stated_classes(*preprocessing)};
  check_labels(images.labels(), fitted.classes, images.label_file());
  return fitted;
}

}  // namespace

Dataset open_idx(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const Pair train = train_files(options), test = test_files(options);
  const auto images =
      std::make_shared<const LabelledImages>(LabelledImages::load(train.images, train.labels));
  Carved carved = carve(images->size(), validation_count(options, images->size()), options.seed);
  const Fitted fitted = fit_or_load(*images, carved.train, options.normalize, preprocessing);

  Dataset dataset;
  dataset.preprocessing = fitted.normaliser->state();
  dataset.preprocessing["classes"] = fmt::format("{}", fitted.classes);
  const auto source = [&](std::vector<uint32_t> subset) {
    return std::make_unique<ImageSource>(images, std::move(subset), fitted.normaliser, fitted.classes);
  };
  if (!carved.validation.empty()) dataset.validation = source(std::move(carved.validation));
  dataset.train = source(std::move(carved.train));
  if (!test.images.empty()) {
    dataset.test = std::make_unique<LazySource>(
        image_fields(images->shape()), fitted.classes, [test, shape = images->shape(), fitted] {
          return open_test(test, shape, fitted.normaliser, fitted.classes);
        });
  }
  return dataset;
}

DataInfo probe_idx(const DatasetOptions& options) {
  const Pair train = train_files(options);
  const Labels labels = load_labels(train.labels);
  const ImageHeader header = read_image_header(train.images);
  return {image_fields(header.shape), count_classes(labels.values, train.labels.string()),
          header.count - validation_count(options, header.count)};
}

}  // namespace furrow::data
