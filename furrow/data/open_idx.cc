// The "idx" kind: MNIST, Fashion-MNIST and whatever else comes in their four files.
#include <utility>

#include "furrow/data/files.h"
#include "furrow/data/open_images.h"
#include "furrow/data/source_kinds.h"

namespace furrow::data {
namespace {

namespace fs = std::filesystem;

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

}  // namespace

Dataset open_idx(const DatasetOptions& options, const Preprocessing* preprocessing) {
  const Pair train = train_files(options), test = test_files(options);
  const auto load = [](const Pair& files) {
    return std::make_shared<const LabelledImages>(LabelledImages::load(files.images, files.labels));
  };
  ImageParts parts{.train = load(train)};
  if (!test.images.empty()) {
    parts.test = [test, load] { return load(test); };
    parts.test_name = test.images.string();
  }
  return assemble_images(options, std::move(parts), preprocessing);
}

DataInfo probe_idx(const DatasetOptions& options) {
  const Pair train = train_files(options);
  const std::vector<int32_t> labels = load_labels(train.labels);
  const ImageHeader header = read_image_header(train.images);
  return {image_fields(header.shape), count_classes(labels, train.labels.string()),
          header.count - validation_count(options, header.count)};
}

}  // namespace furrow::data
